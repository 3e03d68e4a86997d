"""Linux's KVM through its ioctls, without a library and without compiled code of ours."""
