// SPDX-License-Identifier: MIT OR Apache-2.0
/* The bare program that the host's own traffic is compared with. */
__attribute__((section("xdp"), used)) int pass(void *context)
{
	return 2; /* XDP_PASS */
}

char license_text[] __attribute__((section("license"), used)) = "Dual MIT/GPL";
