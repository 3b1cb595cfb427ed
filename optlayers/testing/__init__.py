"""Record the answers of many layer sets once, and replay them in tests without the models.

Record, with the models of a study (`ModelEvaluator` in `optlayers.evaluation.evaluator`):

    evaluator = ModelEvaluator(load_study("mine.yaml"), torch.device("cuda"), torch.bfloat16)
    sets = list(LayerSpace(evaluator.n_layers, 0, 2))
    Landscape.record(evaluator, sets).save(Path("mine.npz"))

or make answers up, and replay them, here through a whole search of a small study:

    >>> import numpy as np
    >>> from optlayers.config.study import parse_study
    >>> from optlayers.evaluation.questions import Subject, order_questions
    >>> from optlayers.layerset import LayerSpace
    >>> from optlayers.storage.connect import open_study
    >>> from optlayers.testing import Landscape, ReplayEvaluator
    >>> from optlayers.workers.worker import Worker
    >>> study = parse_study('''
    ... name: mine
    ... base: {model: my-base}
    ... donor: {model: my-donor}
    ... layers: {max: 2}
    ... tasks: [{name: capitals}]
    ... questions: {fast: 10}
    ... ''', "mine.yaml", folder)
    >>> order = order_questions([Subject("capitals", 40, 1.0)], study.questions)
    >>> sets = list(LayerSpace(6, 0, 2))
    >>> answers = np.random.default_rng(0).random((len(sets), order.n_full)) < 0.5
    >>> landscape = Landscape.of(6, order, sets, answers)
    >>> stored = open_study(f"sqlite:///{folder}/optuna.db", study)
    >>> Worker(study, stored, ReplayEvaluator(landscape)).run()
    True
    >>> stored.best_value == max(landscape.scores().values())
    True

`Simulation` runs such a search without a database, with any number of workers taking turns.
"""

from optlayers.testing.landscape import Landscape
from optlayers.testing.replay import ReplayEvaluator
from optlayers.testing.simulation import Simulation

__all__ = ["Landscape", "ReplayEvaluator", "Simulation"]
