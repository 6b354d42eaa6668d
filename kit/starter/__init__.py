"""What `kit new` works out of an upstream: the modules its scripts reach, their options, their pipeline's parts."""
