#!/usr/bin/env python
"""How good the probabilities of Predictor.same are, on the test ships of a folder with a HOSS.

    python benchmarks/probabilities.py --data /data/hoss_sample --weights zoo:mos

Of all pairs of test chips, but those of two distractors; pairs of one ship together as heavy as pairs of two. The Brier
score is the mean squared difference from 0 or 1: 0.25 is no knowledge, 0 is perfect.
"""

from __future__ import annotations

import argparse

import numpy as np
from _runs import machine
from sklearn.metrics import brier_score_loss, roc_auc_score
from tabulate import tabulate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder that holds HOSS/")
    parser.add_argument("--weights", default="zoo:mos", help="zoo:<name>, or a file of tools/export_weights.py")
    args = parser.parse_args()
    from fastreid_mos import Predictor
    from fastreid_mos.data import HOSS
    from fastreid_mos.predict.calibration import PAIRS

    dataset, predictor = HOSS(args.data), Predictor(args.weights)
    paths, identities, modalities = map(np.array, zip(*sorted({*dataset.query, *dataset.gallery}), strict=True))
    features = predictor.extract(list(paths), list(modalities))
    first, second = np.triu_indices(len(paths), 1)
    known = (identities[first] >= 0) | (identities[second] >= 0)
    first, second = first[known], second[known]
    same, kinds = identities[first] == identities[second], modalities[first] + modalities[second]
    given = predictor.same(features, features, modalities, modalities)[first, second]
    rows = []
    for kind in np.unique(kinds):
        truth, guess = same[kinds == kind], given[kinds == kind]
        number = np.bincount(truth, minlength=2)
        row = [PAIRS[kind], number[1], number[0]]
        if number.min():
            weights = (0.5 / number)[truth.astype(int)]
            brier = brier_score_loss(truth, guess, sample_weight=weights)
            row += [f"{roc_auc_score(truth, guess):.3f}", f"{brier:.3f}"]
            row += [f"{100 * (guess[truth == one] > 0.5).mean():.0f} %" for one in (True, False)]
        rows.append(row)
    print(f"{args.weights} on the test ships of {args.data}, {machine()}")
    names = ["pairs", "of one ship", "of two", "AUC", "Brier", "one ship, above 1/2", "two ships, above 1/2"]
    print(tabulate(rows, names, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
