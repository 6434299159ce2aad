"""Sets and models for others: folders in the Hugging Face form, each with a card made from manifests and metrics."""
