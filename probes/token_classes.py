"""Attention to kinds of tokens: punctuation, line breaks, digits, beginnings of words, function words.

Validation rows of the model's own data. A token's kind is read from its text, as the tokenizer gives it with its leading
space. Punctuation: nothing but punctuation and symbols (Unicode P and S) around spaces; newline: holds a line break; digit:
nothing but digits around spaces; word_start: a space, then a letter (a word that begins a row or a line, without a space,
is not among them); function_word: a space, then one of FUNCTION_WORDS in any case. Score: attention to all tokens of the
kind up to and with the query's own; mean over the queries that have one, then over rows. Clark et al. 2019, arXiv
1906.04341 (attention to punctuation). Range 0 to 1; chance is uniform attention, the mean of (tokens of the kind) / (q + 1).
Not measured where no tokenizer says what tokens are. Own kinds: copy this file; `attention.to_class(f)` takes any f(text).
"""

import unicodedata

from nca_interp import natural, probe

FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "this",
        "that",
        "these",
        "those",
        "and",
        "or",
        "but",
        "nor",
        "so",
        "if",
        "then",
        "than",
        "as",
        "of",
        "in",
        "on",
        "at",
        "by",
        "for",
        "from",
        "to",
        "with",
        "without",
        "into",
        "over",
        "under",
        "between",
        "through",
        "during",
        "before",
        "after",
        "about",
        "against",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "am",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "will",
        "would",
        "can",
        "could",
        "shall",
        "should",
        "may",
        "might",
        "must",
        "not",
        "no",
        "it",
        "its",
        "he",
        "she",
        "they",
        "we",
        "you",
        "i",
        "his",
        "her",
        "their",
        "our",
        "your",
        "my",
        "me",
        "him",
        "them",
        "us",
        "who",
        "whom",
        "which",
        "what",
        "there",
        "here",
    ]
)


def is_punctuation(text):
    """Whether a token is punctuation."""
    stripped = text.strip()
    return bool(stripped) and all(unicodedata.category(c)[0] in "PS" for c in stripped)


def is_newline(text):
    """Whether a token breaks the line."""
    return "\n" in text


def is_digit(text):
    """Whether a token is digits."""
    return text.strip().isdigit()


def is_word_start(text):
    """Whether a token begins a word."""
    return text[:1] == " " and text[1:2].isalpha()


def is_function_word(text):
    """Whether a token is a function word."""
    return text[:1] == " " and text[1:].lower() in FUNCTION_WORDS


@probe(stimulus=natural(), unit="attention mass", low=0.0, high=1.0)
def to_punctuation(attention):
    """Return score[batch, head]."""
    return attention.to_class(is_punctuation).mean()


@probe(stimulus=natural(), unit="attention mass", low=0.0, high=1.0)
def to_newline(attention):
    """Return score[batch, head]."""
    return attention.to_class(is_newline).mean()


@probe(stimulus=natural(), unit="attention mass", low=0.0, high=1.0)
def to_digit(attention):
    """Return score[batch, head]."""
    return attention.to_class(is_digit).mean()


@probe(stimulus=natural(), unit="attention mass", low=0.0, high=1.0)
def to_word_start(attention):
    """Return score[batch, head]."""
    return attention.to_class(is_word_start).mean()


@probe(stimulus=natural(), unit="attention mass", low=0.0, high=1.0)
def to_function_word(attention):
    """Return score[batch, head]."""
    return attention.to_class(is_function_word).mean()
