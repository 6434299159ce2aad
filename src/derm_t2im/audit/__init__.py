"""What is wrong with a set of images, ours or a stranger's, before anything is trained on it."""
