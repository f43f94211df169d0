"""Many trials: plans handed to warm labs on all cores, what came of them kept so that a run can be resumed."""
