"""Stage: compute the scores that are missing, shard by shard, and keep them in the store.

Difficulty, influence (computed, or predicted by a rater), and the baselines perplexity and similarity. A shard is
committed in one transaction; a killed run loses at most the shard it was computing and, since batches depend on the
dataset alone, ends with the same numbers as an undisturbed one. The store is held only while it is read or written,
never while a model runs.
"""

from diq.score.difficulty import find_classifier as find_classifier
from diq.score.difficulty import score_difficulty as score_difficulty
from diq.score.influence import score_influence as score_influence
from diq.score.perplexity import score_perplexity as score_perplexity
from diq.score.rater import score_rater as score_rater
from diq.score.similarity import score_similarity as score_similarity
from diq.score.summary import ScoreSummary as ScoreSummary
