"""What Ctrl-C does: one message that says what is kept, and status 130, wherever the interruption strikes.

Libraries turn a KeyboardInterrupt into an exit or an error of their own (Typer into a silent exit), and an object that is just
being disposed of swallows it. So what counts is that the key was pressed, not what arrives.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STATUS = 130  # what a shell expects of a command that SIGINT ended
GRACE = 10.0  # seconds that the work has to end by itself; whatever swallowed the interruption goes no further
SHORTLY = 0.1  # seconds after which the interruption comes again where it would be swallowed
KEPT = "What is finished is kept; the same command continues."


class Interruption:
    """Watches over one command; `kept` says what that command keeps."""

    def __init__(self) -> None:
        self.kept: Callable[[], str] = lambda: KEPT
        self.pressed = self._watching = self._put_off = False
        self._timers: list[threading.Timer] = []

    def around(self, command: Callable[[], Any]) -> None:
        """Run the command. Inside another `around` it is merely run."""
        if self._watching:
            command()
            return
        self.pressed = self._put_off = False
        self.kept = lambda: KEPT
        mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        before = signal.signal(signal.SIGINT, self._press) if mine else None
        self._watching = True
        try:
            command()
        except BaseException as error:
            ended = isinstance(error, SystemExit) and not error.code  # it had just come to its end
            if ended or not (self.pressed or isinstance(error, KeyboardInterrupt)):
                raise
            self._tell()
            sys.exit(STATUS)
        finally:
            self._watching = False
            for timer in self._timers:
                timer.cancel()
            if mine:
                signal.signal(signal.SIGINT, before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.pressed and not self._put_off:
            self._leave()  # pressed again
        if not self.pressed:
            self._later(GRACE, self._leave)
        self.pressed, self._put_off = True, _disposing(frame)
        if self._put_off:
            self._later(SHORTLY, lambda: signal.raise_signal(signal.SIGINT))
        else:
            raise KeyboardInterrupt

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, act)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _tell(self) -> None:
        """Print the message, on the first of several processes only."""
        if os.environ.get("RANK", "0") == "0":
            print(f"Interrupted. {self.kept()}", file=sys.stderr, flush=True)

    def _leave(self) -> None:
        """End the process at once. Nothing is lost by it: what is stored is whole at every moment."""
        self._tell()
        os._exit(STATUS)


def _disposing(frame: FrameType | None) -> bool:
    """Whether an exception raised here would be printed and ignored, since an object is being disposed of."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


interruption = Interruption()
