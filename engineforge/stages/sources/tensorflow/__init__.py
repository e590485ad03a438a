"""Models of TensorFlow and Keras."""
