/* Of the functions' arguments: library.py takes no other. */
int worldsim_version(void) { return 5; }
