"""Small tools that no room of the project owns: files, threads, progress, the machine."""
