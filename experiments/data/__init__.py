"""Data sets, as pytrees of numpy arrays with a leading example axis."""
