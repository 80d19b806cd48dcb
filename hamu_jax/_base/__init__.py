"""What everything else stands on: checks of arguments, device axes, the history of a run, optional libraries."""
