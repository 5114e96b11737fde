"""What the bytes mean: topics, messages, codecs, samples, images."""
