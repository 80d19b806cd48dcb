"""Every unlearning method by name (`registry`), and what makes it an optimizer (`build`)."""
