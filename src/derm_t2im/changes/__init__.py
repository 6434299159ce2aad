"""What a change of the repository did to its results: one revision beside another, for a pull request."""
