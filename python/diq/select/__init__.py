"""Stage: rank the scored samples of a dataset once, and take the part that was asked for. Loads no model library.

The ranking of a configuration is stored whole, so every other ratio is a prefix read; a change of the scores that it
was made from is noticed by their digest, and then it is made again. Guards leave samples out before anything is ranked.
"""

from diq.select.output import check_output as check_output
from diq.select.selection import Selection as Selection
from diq.select.selection import run as run
