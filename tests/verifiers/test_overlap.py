"""BLEU, chrF and ROUGE-L: hand numbers of paper 04, equality with sacrebleu, what no text may break."""

from __future__ import annotations

import json
import lzma
import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.data.records import RecordError
from rewardsmith.verifiers.ngrams import LcsReferences, Tokenizer, lcs_lengths
from rewardsmith.verifiers.overlap import BLEU, BleuRouge, ChrF, RougeL, bleu, rouge_l

CAT = "the cat sat on the mat"
REFERENCE = "the cat is on the mat"
# Few words and much punctuation: texts that share n-grams and meet every rule of the tokenizers.
# fmt: off
PIECES = [
    "the", "cat", "a", "sat.", ",", ".", "1,5", "5-3", "-", "3.", "x,.5", "&quot;", "&amp;lt;", "-\n", "\n", " ",
    "don't", "(yes)", "U.S.", "$5", "é", "中文。", "<skipped>", "\xa0", "¿", "²", "½.", "\t", "😀", "`", "''",
]
# fmt: on
pieces = st.lists(st.sampled_from(PIECES), max_size=25)
texts = st.one_of(
    pieces.map(" ".join), pieces.map("".join), st.text(max_size=40), st.text(alphabet="a1.,- '!", max_size=30)
)
solid = texts.filter(lambda text: text.strip().replace("<skipped>", "").strip(" -\n") != "")


def test_the_hand_numbers_of_the_paper():
    one, two = [REFERENCE], [REFERENCE, "a cat sat down there today"]
    values = bleu([CAT, "the cat", CAT, REFERENCE, "x"], [one, one, two, one, one])
    np.testing.assert_allclose(values, [0.488923, 0.135335, 0.537285, 1.0, 0.005666], atol=5e-7)
    assert values[1] == pytest.approx(math.exp(-2), abs=1e-12) and values[3] == 1.0
    detail = BLEU().score({"completion": [CAT], "references": [[REFERENCE]]}).details[0]
    precisions = [detail[f"precision_{n}"] for n in range(1, 5)]
    assert precisions == pytest.approx([6 / 7, 4 / 6, 2 / 5, 1 / 4], abs=1e-12)
    assert detail["brevity_penalty"] == 1 and detail["length"] == 6 and detail["reference_length"] == 6


def test_rouge_and_the_harmonic_mean_by_hand():
    assert rouge_l([CAT], [[REFERENCE, "no"]])[0] == pytest.approx(5 / 6)
    assert rouge_l(["a b c d"], [["b d"]])[0] == pytest.approx(2 * 2 / 6)
    both = BleuRouge().score({"completion": [CAT, "zzz"], "references": [[REFERENCE]] * 2})
    b, r = both.parts["bleu"], both.parts["rouge_l"]
    assert both.values[0] == pytest.approx(2 * b[0] * r[0] / (b[0] + r[0]))
    assert r[1] == 0 and both.values[1] == 0


@pytest.mark.parametrize("smoothing", ["exp", "floor", "add-k", "none"])
@pytest.mark.parametrize("effective_order", [True, False])
@given(st.data())
@settings(max_examples=40)
def test_bleu_is_sacrebleus(smoothing, effective_order, data):
    tokenize = data.draw(st.sampled_from(["13a", "intl", "char", "none"]))
    lowercase = data.draw(st.booleans())
    references = data.draw(st.lists(solid, min_size=1, max_size=3))
    predictions = data.draw(st.lists(st.one_of(texts, st.sampled_from(references)), min_size=1, max_size=4))
    ours = BLEU(
        smoothing=smoothing,
        effective_order=effective_order,
        tokenize=tokenize,
        lowercase=lowercase,
        brevity="closest",
    ).score({"completion": predictions, "references": [references] * len(predictions)})
    theirs = sacrebleu.BLEU(
        smooth_method=smoothing, effective_order=effective_order, tokenize=tokenize, lowercase=lowercase, force=True
    )
    if any(not theirs._preprocess_segment(text).split() for text in references):
        assert np.isnan(ours.values).all()
        return
    wanted = [theirs.sentence_score(text, references).score for text in predictions]
    np.testing.assert_allclose(100 * ours.values, wanted, rtol=0, atol=1e-9)


@given(st.lists(texts, min_size=1, max_size=4), st.lists(solid, min_size=1, max_size=3), st.booleans())
def test_chrf_is_sacrebleus(predictions, references, lowercase):
    ours = ChrF(lowercase=lowercase).score({"completion": predictions, "references": [references] * len(predictions)})
    theirs = sacrebleu.CHRF(lowercase=lowercase)
    wanted = [theirs.sentence_score(text, references).score for text in predictions]
    np.testing.assert_allclose(100 * ours.values, wanted, rtol=0, atol=1e-9)


@given(texts, st.sampled_from(["13a", "intl", "char", "none"]))
@settings(max_examples=400)
def test_tokens_are_sacrebleus(text, method):
    tokenizer = Tokenizer(method)
    ids = tokenizer.ids(text).tolist()
    names = {number: token for token, number in tokenizer.tokens.items()} if method != "char" else None
    ours = [chr(i) for i in ids] if names is None else [names[i] for i in ids]
    assert ours == sacrebleu.BLEU(tokenize=method, force=True)._preprocess_segment(text).split()


words = st.lists(st.integers(0, 4), max_size=12)


@given(words, st.lists(words, min_size=1, max_size=4))
def test_common_subsequences_are_those_of_the_textbook(a, references):
    def longest(b):
        table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
        return table[-1, -1]

    prepared = LcsReferences([np.array(b, dtype=np.int64) for b in references])
    assert lcs_lengths(np.array(a, dtype=np.int64), prepared).tolist() == [longest(b) for b in references]


@given(texts, st.lists(solid, min_size=2, max_size=4), st.randoms())
def test_order_of_references_does_not_matter_and_more_never_hurt(text, references, random):
    (value,) = bleu([text], [references])
    shuffled = random.sample(references, len(references))
    np.testing.assert_equal(bleu([text], [shuffled])[0], value)
    lengths = [len(Tokenizer("13a").ids(reference)) for reference in references]
    if lengths[-1] >= min(lengths[:-1]) and not math.isnan(value):
        assert value >= bleu([text], [references[:-1]])[0] - 1e-12


@pytest.mark.parametrize("reward", [BLEU(), RougeL(), BleuRouge(), ChrF(), BLEU(reasoning=True)])
@given(st.lists(st.text(st.characters(), max_size=30), max_size=5))
def test_no_completion_breaks_a_rule_and_values_stay_in_range(reward, completions):
    completions = [*completions, "", None, "\ud800", [{"role": "assistant", "content": None}], [], "a" * 3000]
    scores = reward.score(
        {"completion": completions, "references": [["a reference", "and \udfff one"]] * len(completions)}
    )
    assert scores.ok.all() and (scores.values >= 0).all() and (scores.values <= 1).all()
    assert scores.values[-4 - 1] == 0 and len(scores.details) == len(completions)


def test_rows_with_their_own_references_are_scored_as_alone():
    rng = np.random.default_rng(0)
    sets = [[" ".join(rng.choice(list("abcdefg"), 12)) for _ in range(3)] for _ in range(4)]
    rows = [(" ".join(rng.choice(list("abcdefgh"), 10)), sets[i]) for i in rng.integers(0, 4, 30)]
    for reward in (BLEU(), RougeL(), ChrF()):
        together = reward.score({"completion": [a for a, _ in rows], "references": [b for _, b in rows]}).values
        alone = [reward.score({"completion": [a], "references": [b]}).values[0] for a, b in rows]
        np.testing.assert_array_equal(together, alone)


def test_processes_give_the_same_numbers():
    rows = {
        "completion": [f"the cat {i} sat" for i in range(12)],
        "references": [[f"a cat {i % 6}"] for i in range(12)],
    }
    np.testing.assert_array_equal(BLEU(n_jobs=2).score(rows).values, BLEU().score(rows).values)


def test_predictions_too_many_for_one_table_are_counted_in_parts(monkeypatch):
    rows = {"completion": [f"the cat sat {i % 3} the mat" for i in range(9)], "references": [[REFERENCE]] * 9}
    whole = BLEU().score(rows).values
    monkeypatch.setattr("rewardsmith.verifiers.ngrams.MOST_CELLS", 10)
    np.testing.assert_array_equal(BLEU().score(rows).values, whole)


def test_what_is_learned_is_forgotten_in_time(monkeypatch):
    reward = BLEU()
    monkeypatch.setattr("rewardsmith.verifiers.ngrams.MOST_TOKENS", 5)
    for _ in range(3):
        scores = reward.score(
            {"completion": [CAT, REFERENCE], "references": [["one two three four five six"], [REFERENCE]]}
        )
        assert scores.values[1] == 1.0
    assert len(reward._tokenizer.tokens) < 12


def test_an_empty_reference_cannot_be_scored_and_bad_columns_are_named():
    scores = BLEU().score({"completion": ["a", "a"], "references": [["", "a"], ["a"]]})
    assert np.isnan(scores.values[0]) and scores.failures[0].kind == "empty" and scores.values[1] == 1
    with pytest.raises(ValueError, match="no column 'references'"):
        BLEU().score({"completion": ["a"]})
    for bad, message in (("text", "list of texts"), ([], "no reference"), (["a", None], "reference 1"), (None, "list")):
        with pytest.raises(RecordError, match=rf"row 1, column 'gold'.*{message}"):
            BLEU(references_column="gold").score({"completion": ["a", "b"], "gold": [["a"], bad]})


def test_trl_calls_it_and_reasoning_scores_the_answer_alone():
    reward = BLEU(reasoning=True)
    answers = [f"<think>no cats</think><answer>{REFERENCE}</answer>", f"hm <answer>{REFERENCE}", REFERENCE]
    assert reward(["q"] * 3, answers, references=[[REFERENCE]] * 3) == [1.0, 1.0, 1.0]
    chat = [[{"role": "assistant", "content": REFERENCE}]]
    assert BLEU()(["q"], chat, references=[[REFERENCE]]) == [1.0]
    assert BLEU().fingerprint()["smoothing"] == "add-one" and "n_jobs" not in BLEU().fingerprint()


@pytest.mark.parametrize(
    "options", [{"smoothing": "two"}, {"brevity": "longest"}, {"tokenize": "14b"}, {"max_order": 0}]
)
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        BLEU(**options)


def test_real_reference_answers(shared_data):
    """gpt-4's answers to questions of MT-Bench: each is like itself and unlike the others; sacrebleu agrees."""
    lines = lzma.decompress((shared_data / "mt-bench" / "gpt-4.jsonl.xz").read_bytes()).decode().splitlines()
    answers = [json.loads(line)["choices"][0]["turns"][0] for line in lines]
    assert len(answers) == 30
    own = bleu(answers, [[answer] for answer in answers])
    np.testing.assert_allclose(own, 1.0, atol=1e-12)
    others = [[answers[(i + 1) % 30]] for i in range(30)]
    assert bleu(answers, others).max() < 0.3 and np.median(bleu(answers, others)) < 0.1
    sets = [[answers[(i + k) % 30] for k in range(1, 4)] for i in range(30)]
    ours = BLEU(smoothing="exp", brevity="closest", effective_order=True)
    theirs = sacrebleu.BLEU(effective_order=True)
    wanted = [theirs.sentence_score(answer, row).score for answer, row in zip(answers, sets)]
    np.testing.assert_allclose(
        100 * ours.score({"completion": answers, "references": sets}).values, wanted, rtol=0, atol=1e-9
    )
    chrf = [sacrebleu.sentence_chrf(answer, row).score for answer, row in zip(answers, sets)]
    np.testing.assert_allclose(
        100 * ChrF().score({"completion": answers, "references": sets}).values, chrf, rtol=0, atol=1e-9
    )
