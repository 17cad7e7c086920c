from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor

from aqa_models.angles_expert.tree_member import fit_tree_member
from aqa_models.angles_expert.trees import Trees, fit_trees

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(150, 10))
Y = np.where(X[:, 3] > 0, 2.0, -2.0) + X[:, 1]


def test_a_tree_by_hand():
    tree = Trees(
        roots=np.array([0]),
        feature=np.array([1, -1, -1]),
        threshold=np.array([0.5, 0.0, 0.0]),
        children=np.array([[1, 2], [1, 1], [2, 2]]),
        value=np.array([0.0, 10.0, 20.0]),
    )
    np.testing.assert_array_equal(tree.predict(np.array([[9, 0.4], [0, 0.5], [0, 7.0]])), [10, 20, 20])


def test_as_good_as_scikit_learns_on_new_items():
    new = GENERATOR.normal(size=(400, 10))
    true = np.where(new[:, 3] > 0, 2.0, -2.0) + new[:, 1]
    ours = fit_trees(X, Y, trees=60, tried=5, leaf=2, seed=(0,)).predict(new)
    theirs = (
        ExtraTreesRegressor(60, max_features=5, min_samples_leaf=2, random_state=0).fit(X, Y).predict(new)
    )
    errors = [np.abs(answer - true).mean() for answer in (ours, theirs)]
    assert errors[0] == pytest.approx(errors[1], rel=0.15)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.97


def test_leaves_hold_enough_items_and_their_mean():
    trees = fit_trees(X, Y, trees=3, tried=4, leaf=7, seed=(1,))
    for root in trees.roots:
        node = np.full(len(X), root)
        for _ in range(50):
            right = X[np.arange(len(X)), trees.feature[node]] >= trees.threshold[node]
            node = np.where(trees.feature[node] == -1, node, trees.children[node, right.astype(int)])
        for leaf in np.unique(node):
            assert (node == leaf).sum() >= 7
            assert trees.value[leaf] == pytest.approx(Y[node == leaf].mean())


def test_equal_items_are_one_leaf():
    trees = fit_trees(np.zeros((9, 2)), np.arange(9.0), trees=2, tried=2, leaf=1, seed=(2,))
    np.testing.assert_allclose(trees.predict(np.ones((1, 2))), 4)
    assert len(trees.feature) == 2


def test_members_answer_alike_in_a_mirror_and_for_each_exercise():
    exercise, folds = np.arange(150) % 2, np.arange(150) // 2 % 5
    target = np.where(exercise == 0, Y, -Y)
    member, held_out = fit_tree_member(X, X[:, ::-1], exercise, target, folds, seed=0)
    np.testing.assert_allclose(
        member.predict(X, X[:, ::-1], exercise), member.predict(X[:, ::-1], X, exercise)
    )
    assert np.corrcoef(held_out, target)[0, 1] > 0.3
