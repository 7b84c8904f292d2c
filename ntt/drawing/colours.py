"""Class colours that are distinguishable on photographs and from each other."""

from typing import TypeAlias

Rgb: TypeAlias = tuple[int, int, int]

# A hundred colours in farthest-point order: each is the one farthest from all before it, so that every prefix is well
# separated. Distances are Euclidean in OKLab (B. Ottosson, 2020); lightness 0.54 to 0.90, chroma 0.06 to 0.21.
_PALETTE_HEX = (
    "f0583c00fcfc006ce4009c00fca8fcfccc00b43cb46ca8b4846c3c54d8609c84fcb49c00fc60b4f0a890a8ccf0786c9c"
    "cc1854008478c0849cb4f09c0c9cfc8454e4a8c09030b47800d8c0e478fcc04800fc8400fccce43cc0fca8606cc07830"
    "6c9048fcd89cb4a8fcb4e40c0cfc9c2484b4c0c024d85484c06ccc78b400fc7884c09c786c78d8e490cc9090cc90e4cc"
    "e4a83c24843cd8b4d8189c9c90a86c9c60b4c0248454d8f000c0cc9cd878d8cc7890b4d878a8fc9c84006c7800309ccc"
    "d8786ccc5454009c6c9c789c78c06cb4549090fc6c6cfccca860e4fc9cb4c09cc0e4e46c84ccc0849c00486cc000b43c"
    "2484e4fc548448e49c6c84a890f0fc7860c0d848a86c6cfc6c9c849c9060a86000cc90f0e478a8d89000fcc0a8b4786c"
    "00cc90fcb46c9048c0e49084"
)
_PALETTE = bytes.fromhex(_PALETTE_HEX)


def class_colour(label: int) -> Rgb:
    """Return the colour of a class index, sRGB in [0, 255]; from the hundred-and-first on colours repeat."""
    start = 3 * label % len(_PALETTE)
    red, green, blue = _PALETTE[start : start + 3]
    return red, green, blue


def text_colour(background: Rgb) -> Rgb:
    """Return black for text on bright colours and white on dark ones, by their luma (ITU-R BT.601)."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 127 else (255, 255, 255)
