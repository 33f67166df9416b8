"""Commands as processes of their own, so that a kill of one is nothing to the others.

`kdbench table` and `hydra/launcher=process` start their runs here.
"""

from kdbench.jobs.crew import JOURNAL, Crew
from kdbench.jobs.inside import follow_launcher, leave_receipt
from kdbench.jobs.job import Ended, Job, Limits, reason_in

__all__ = ["JOURNAL", "Crew", "Ended", "Job", "Limits", "follow_launcher", "leave_receipt", "reason_in"]
