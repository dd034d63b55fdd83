"""Scripts that part no words by spaces, for whoever counts or compares words."""

UNSPACED = (  # as part of a character class: Thai, Lao, Tibetan, Burmese, Khmer, kana, Han
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
