"""What everything else stands on: checks of arguments, device axes, histories, Markdown, the version, optional libraries."""
