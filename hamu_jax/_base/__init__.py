"""Used by all other packages: checks of arguments, device axes, histories, Markdown, the version, optional libraries."""
