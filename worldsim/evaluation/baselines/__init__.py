"""What was usual before: convolutional recurrent networks on the same data, to be better than."""
