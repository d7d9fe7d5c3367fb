/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What every XDP program here needs of the kernel's and libbpf's headers.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int (*name)[value]
#define __type(name, type) typeof(type) *name
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define network16(x) __builtin_bswap16(x)
#else
#define network16(x) (x)
#endif

/* linux/bpf.h numbers the helpers; libbpf's header of prototypes is not a
 * package that everyone has. Those of one program alone are declared there. */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;

/* Any frag_off bit but "don't fragment": more fragments, or an offset. */
#define FRAGMENT network16(0x3fff)
