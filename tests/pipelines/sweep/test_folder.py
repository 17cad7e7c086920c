from __future__ import annotations

import json

from pipelines.sweep.plan import read_sweep

FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]


def test_what_the_disk_says_of_a_trial(begun, trained):
    sweep = begun(metric="val_mae")
    trained(sweep, 0, FALLING)
    trained(sweep, 1, [2.0, 3.0, 4.0])
    trained(sweep, 2, [5.0], done=False)
    sweep.start(3)
    (sweep.trial_folder(3) / "failed.json").write_text(
        json.dumps({"where": "epoch 0", "cause": "is not finite"})
    )
    found = sweep.trials()
    assert [trial.status for trial in found] == [
        *("finished", "stopped", "unfinished", "failed"),
        *("waiting", "waiting"),
    ]
    assert [trial.ended for trial in found] == [True, True, False, True, False, False]
    assert (found[0].value, found[0].epochs, found[0].seconds) == (2.0, 9, 18.0)
    assert (found[1].value, found[1].epochs) == (20.0, 3)
    assert found[2].value is None
    assert found[3].error == "epoch 0: is not finite"


def test_a_metric_that_the_best_epoch_lacks_is_a_failure(begun, trained):
    sweep = begun(metric="val_accuracy")
    trained(sweep, 0, FALLING)
    assert sweep.trial(0).error == "its best epoch has no val_accuracy"


def test_a_started_trial_keeps_its_values(begun, trained):
    sweep = begun(in_order=False)
    before = sweep.start(3).params
    trained(sweep, 0, FALLING)
    assert sweep.start(3).params == before == read_sweep(sweep.folder).trial(3).params


def test_a_trial_depends_only_on_those_that_ended_before_it_started(begun, trained):
    """With two side by side, trial 6 may know trials 0 to 4, however fast trial 5 is."""
    sweep = begun(lag=2, trials=9)
    assert sweep.visible(0) == sweep.visible(1) == []
    assert sweep.visible(6) == [0, 1, 2, 3, 4]
    for number in range(5):
        trained(sweep, number, [1.0 - number / 10] * 9)
    proposed = sweep.start(6).params
    trained(sweep, 5, [1e-6] * 9)
    (sweep.trial_folder(6) / "trial.json").unlink()
    assert sweep.start(6).params == proposed
    (sweep.trial_folder(6) / "trial.json").unlink()
    (sweep.trial_folder(4) / "summary.json").unlink()
    assert sweep.start(6).params != proposed  # trial 4 did count


def test_a_trial_is_stopped_at_a_rung_by_those_it_may_know(begun, trained):
    """Rungs of 9 epochs: 1 and 3."""
    sweep = begun(lag=2)
    for number, level in enumerate([0.1, 0.2, 0.3, 0.9]):
        trained(sweep, number, [level] * 9)
    trained(sweep, 4, [0.15], done=False)  # knows 0, 1 and 2: the best third of them ends between 0.1 and 0.2
    assert not sweep.is_hopeless(4)
    trained(sweep, 4, [0.15, 0.18], done=False)
    assert not sweep.is_hopeless(4)  # no rung
    trained(sweep, 4, [0.25], done=False)
    assert sweep.is_hopeless(4)
    trained(sweep, 4, [0.5, 0.15, 0.5], done=False)
    assert not sweep.is_hopeless(4)  # its best epoch counts
    trained(sweep, 1, [99.0], done=False)
    assert not sweep.is_hopeless(1)  # knows nobody


def test_others_that_were_stopped_before_do_not_count_at_later_rungs(begun, trained):
    sweep = begun(lag=1)
    trained(sweep, 0, [0.5] * 9)
    trained(sweep, 1, [0.1])
    trained(sweep, 2, [0.4] * 3, done=False)
    assert not sweep.is_hopeless(2)


def test_without_asha_nothing_is_stopped(begun, trained):
    sweep = begun(lag=1, scheduler="none")
    trained(sweep, 0, [0.1] * 9)
    trained(sweep, 1, [9.0], done=False)
    assert not sweep.is_hopeless(1)


def test_out_of_order_everything_known_so_far_counts(begun, trained):
    sweep = begun(lag=2, in_order=False)
    trained(sweep, 0, [0.9], done=False)
    trained(sweep, 1, [0.1], done=False)
    assert sweep.visible(0) == [1]
    assert sweep.is_hopeless(0)
    assert not sweep.is_hopeless(1)
