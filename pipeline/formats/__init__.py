"""Models of other libraries: read into an encoder, and written from one."""
