"""Applications over exported models: the stream server, prediction on files, the desktop window."""
