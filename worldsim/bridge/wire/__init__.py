"""Wire format: messages, header fields and ZMTP."""
