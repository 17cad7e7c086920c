"""The code of a registered model: MLflow runs this file when it loads one (`mlflow models serve`).

One row per clip: clip_id, action_type, difficulty, and either `video`, a file on the machine of the model,
or the columns of its tables, e.g. `poses.keypoints`. The answer has a row per clip: clip_id and score, or
clip_id and group; for a video also low and high, or `refused`.
"""

from pathlib import Path

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class ServedModel(PythonModel):
    """Scores clips with the bundle beside this file."""

    def load_context(self, context):
        from pipelines.scorer import Scorer

        self.scorer = Scorer(Path(context.artifacts["bundle"]))

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        return pd.DataFrame(self.scorer.score_rows(model_input.to_dict("records")))


set_model(ServedModel())
