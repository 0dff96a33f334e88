"""Datasets: the samples of a file, whoever wrote it, as one kind of thing."""

from isthmus.evals.datasets.dataset import Dataset
from isthmus.evals.datasets.files import open_dataset, save

__all__ = ["Dataset", "open_dataset", "save"]
