"""The tables and private names of Optuna that the fast store relies on, and whether they are there.

They belong to no public interface, so another version of Optuna may change them.
"""

from __future__ import annotations

import importlib
import inspect

from optuna.storages import RDBStorage

SCHEMA_VERSION = 12
COLUMNS = {
    "studies": "study_id study_name",
    "study_system_attributes": "study_system_attribute_id study_id key value_json",
    "trials": "trial_id number study_id state datetime_start datetime_complete",
    "trial_params": "param_id trial_id param_name param_value distribution_json",
    "trial_user_attributes": "trial_user_attribute_id trial_id key value_json",
    "trial_system_attributes": "trial_system_attribute_id trial_id key value_json",
    "trial_values": "trial_value_id trial_id objective value value_type",
    "trial_intermediate_values": "trial_intermediate_value_id trial_id step intermediate_value "
    "intermediate_value_type",
    "trial_heartbeats": "trial_heartbeat_id trial_id heartbeat",
}
CONVERSIONS = {
    "TrialValueModel": ("value_to_stored_repr", "stored_repr_to_value"),
    "TrialIntermediateValueModel": (
        "intermediate_value_to_stored_repr",
        "stored_repr_to_intermediate_value",
    ),
}
GET_TRIALS = ["self", "study_id", "states", "included_trial_ids", "trial_id_greater_than"]


def difference() -> str:
    """The first difference between the installed Optuna and the expected one, or an empty text."""
    try:
        models = importlib.import_module("optuna.storages._rdb.models")
        if models.SCHEMA_VERSION != SCHEMA_VERSION:
            return f"its schema is {models.SCHEMA_VERSION}, not {SCHEMA_VERSION}"
        for name, columns in COLUMNS.items():
            found = models.BaseModel.metadata.tables[name].columns.keys()
            if set(found) != set(columns.split()):
                return f"its table {name} has the columns {', '.join(found)}"
        for model, functions in CONVERSIONS.items():
            for function in functions:
                getattr(getattr(models, model), function)
        if list(inspect.signature(RDBStorage._get_trials).parameters) != GET_TRIALS:
            return "RDBStorage._get_trials has other parameters"
    except (ImportError, AttributeError) as error:
        return str(error)
    except KeyError as error:
        return f"it has no table {error}"
    return ""
