"""The words that prompts, measurements and phantoms share, and the bounds behind them."""

from __future__ import annotations

# Skin-tone classes by individual typology angle (degrees), Chardon et al. 1991, Del Bino et al. 2006:
# a class reaches from its bound up to the bound of the class before it.
TONES: dict[str, float] = {
    "very light": 55.0,
    "light": 41.0,
    "intermediate": 28.0,
    "tan": 10.0,
    "brown": -30.0,
    "dark": -90.0,
}

# Lesion size by the share of the image that it covers: a class reaches from its bound upwards.
SIZES: dict[str, float] = {"large": 0.22, "medium": 0.10, "small": 0.04, "tiny": 0.0}

COUNTS: dict[str, int] = {"one": 1, "two": 2, "three": 3}

# Body sites of the ISIC Archive and HAM10000.
SITES = (
    "abdomen", "acral", "back", "chest", "ear", "face", "foot", "genital", "hand", "head and neck",
    "lower extremity", "neck", "oral", "scalp", "trunk", "upper extremity",
)  # fmt: skip

# Other names of the ISIC Archive, as one of SITES; `oral/genital` is none of them and stays unsaid.
SITE_NAMES: dict[str, str] = {
    "anterior torso": "trunk",
    "lateral torso": "trunk",
    "posterior torso": "back",
    "torso": "trunk",
    "head/neck": "head and neck",
    "palms/soles": "acral",
}

# How a label is said in a prompt; a label without an entry is said as it is written.
LABEL_WORDS: dict[str, str] = {
    "benign": "benign",
    "malignant": "malignant",
    "nv": "melanocytic nevus",
    "mel": "melanoma",
    "bkl": "benign keratosis",
    "bcc": "basal cell carcinoma",
    "akiec": "actinic keratosis",
    "vasc": "vascular",
    "df": "dermatofibroma",
}

# Diagnoses of HAM10000 that are malignant (or may become so, akiec); the paper's `malignant`.
MALIGNANT = ("akiec", "bcc", "mel")


def tone_of(ita: float) -> str:
    """Name of the skin tone for an individual typology angle in degrees."""
    return next(name for name, low in TONES.items() if ita > low or low == -90.0)


def size_of(area: float) -> str:
    """Name of the size for a lesion area as a share of the image."""
    return next(name for name, low in SIZES.items() if area >= low)


def count_of(count: int) -> str:
    """Word for a number of lesions; more than three are still "three"."""
    return next((word for word, n in COUNTS.items() if n >= count), "three")


def site_of(site: str) -> str:
    """A body site of metadata as one of :data:`SITES`; empty where it is none of them."""
    name = " ".join(site.split()).lower()
    name = SITE_NAMES.get(name, name)
    return name if name in SITES else ""


def label_words(label: str) -> str:
    """How a label is said in a prompt."""
    return LABEL_WORDS.get(label, label.replace("_", " "))
