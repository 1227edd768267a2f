"""The wrong kernels, and what was seen of them; to run them again takes minutes, see mutants.py."""

import json
from collections import Counter
from dataclasses import asdict

from tests.kernels.mutants import FOLDER, MUTANTS, kernels_digest


def test_each_changes_one_place(root):
    for mutant in MUTANTS:
        text = (root / FOLDER / mutant.file).read_text()
        assert text.count(mutant.old) == 1, mutant


def test_the_tests_catch_them(root):
    seen = json.loads((root / "docs/results/kernels/mutants.json").read_text())
    rows = seen["mutants"]
    results = [row.pop("caught_by") for row in rows]
    assert rows == [asdict(mutant) for mutant in MUTANTS], "run mutants.py again"
    assert seen["kernels_sha256"] == kernels_digest(), "the kernels changed, run mutants.py again"
    made, missed = Counter(row["kernel"] for row in rows), Counter()
    for row, test in zip(rows, results, strict=True):
        missed[row["kernel"]] += test is None
    assert min(made.values()) >= 10
    assert max(missed.values()) <= 1
