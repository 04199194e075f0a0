"""Models of the kinds that are built with recurrent layers.

Each takes the class of its recurrent layers as ``rnn``: ``fastrnn.LSTM`` by default, any other of fastrnn or
``torch.nn``, or whatever has their constructor. Batches come first in all tensors.
"""

from fastrnn.models.classifier import SequenceClassifier
from fastrnn.models.forecaster import Forecaster, pinball_loss
from fastrnn.models.generator import SequenceGenerator
from fastrnn.models.language import LanguageModel
from fastrnn.models.recurrence import detach
from fastrnn.models.seq2seq import Seq2Seq, teacher_forcing_ratio
from fastrnn.models.tagger import SequenceTagger, TagScores, tag_scores

__all__ = [
    "Forecaster",
    "LanguageModel",
    "Seq2Seq",
    "SequenceClassifier",
    "SequenceGenerator",
    "SequenceTagger",
    "TagScores",
    "detach",
    "pinball_loss",
    "tag_scores",
    "teacher_forcing_ratio",
]
