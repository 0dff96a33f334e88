"""What another config would have done with recorded traffic. Pure: records in, comparison out."""
