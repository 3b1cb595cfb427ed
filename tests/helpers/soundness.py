"""What must hold of a finished study, whatever happened on the way."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import optuna

from optlayers.layerset import LayerSet
from optlayers.results.view import StudyView
from optlayers.trials.record import read_records
from tests.helpers.replay import definition, landscape


def assert_sound(study: optuna.Study, small: bool = False) -> None:
    """Done, nothing stuck, no question of a set told twice, every answer as recorded."""
    view = StudyView.of(definition(small=small), study)
    assert view.phase == "done"
    assert view.trial_counts["running"] == view.trial_counts["waiting"] == 0
    truth = landscape()
    paid: dict[LayerSet, int] = defaultdict(int)
    for record in read_records(study.get_trials(deepcopy=False)):
        paid[record.layers] += record.evaluated
        assert len(record.layers) <= 3
        if record.is_evaluated:
            assert record.answers is not None
            recorded = truth.answers[truth.index[record.layers], : record.questions]
            np.testing.assert_array_equal(record.answers, recorded)
    assert max(paid.values()) <= truth.order.n_full
