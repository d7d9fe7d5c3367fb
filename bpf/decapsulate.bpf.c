// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Decapsulation: a member's end of an IPIP tunnel (RFC 2003) for kernels
 * without the ipip module, and for hosts where a device per tunnel is one too
 * many. The outer header goes, the Ethernet header moves up, the kernel
 * receives the inner packet as if it had come by itself.
 *
 *   IPv4, protocol 4, to one of our tunnel endpoints:
 *     a fragment: the kernel reassembles, if anybody does    -> host
 *     from a source that may not send to us                  -> dropped
 *     outer or inner header cannot be read                   -> dropped
 *     congestion was experienced in the tunnel, and the inner
 *     packet's sender would not understand (RFC 6040 §4.2)    -> dropped
 *     else: without its outer header                         -> host
 *   all else                                                 -> host
 *
 * Every end has its counter. The maps' layout has its twin in
 * src/realserver/decapsulate.rs.
 */
#include "program.h"

static long (*bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;

/* Addresses of a member that balancers send to: one, rarely a handful. */
#define MOST_ENDPOINTS 256
/* Prefixes that balancers send from: as many as a fleet has racks. */
#define MOST_SOURCES 4096
/* An IHL is four bits of 32-bit words (RFC 791 §3.1). */
#define MOST_HEADER_WORDS 15

enum counter { DECAPSULATED, PASSED, FRAGMENTS, BAD_SOURCE, MALFORMED, INNER_NOT_IPV4, ECN_DROPPED, COUNTERS };

/* The last two bits of the traffic class (RFC 3168 §5). */
enum ecn { NOT_ECT, ECT_1, ECT_0, CE, ECN_MASK = 3 };

/* A key of the trie: the kernel wants the length first. */
struct prefix {
	__u32 length;
	__be32 address;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_ENDPOINTS);
	__type(key, __be32);
	__type(value, __u8);
} endpoints SEC(".maps");

/* Whoever may send; 0.0.0.0/0 if anybody may. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MOST_SOURCES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
} sources SEC(".maps");

#include "counters.h"

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* RFC 791 §3.1: the ones' complement sum of a good header, its checksum
 * included, is all ones. */
static __always_inline int checksum_is_good(const struct iphdr *ip, const void *end)
{
	const __u16 *words = (const void *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int word = 0; word < MOST_HEADER_WORDS; word++) {
		if (word >= ip->ihl)
			break;
		if ((const void *)(words + 2 * word + 2) > end)
			return 0;
		sum += words[2 * word];
		sum += words[2 * word + 1];
	}
	return fold(sum) == 0xffff;
}

static __always_inline int may_send(__be32 source)
{
	struct prefix key = { .length = 32, .address = source };

	return bpf_map_lookup_elem(&sources, &key) != 0;
}

/* RFC 6040 figure 4: what becomes of the inner field, or -1: drop. */
static __always_inline int inner_ecn(__u8 outer, __u8 inner)
{
	if (outer == CE)
		return inner == NOT_ECT ? -1 : CE;
	/* The outer ECT(1) may be a mark of its own, milder than CE. */
	if (outer == ECT_1 && inner == ECT_0)
		return ECT_1;
	return inner;
}

static __always_inline void set_ecn(struct iphdr *ip, __u8 ecn)
{
	/* RFC 1624 equation 3: HC' = ~(~HC + ~m + m'), where m is the word that
	 * the field is in. Ones' complement sums work in either byte order. */
	__u16 *word = (void *)ip;
	__u32 sum = (__u16)~ip->check + (__u16)~*word;

	ip->tos = (ip->tos & ~ECN_MASK) | ecn;
	ip->check = ~fold(sum + *word);
}

static __always_inline int decapsulate_ipip(struct xdp_md *ctx, const struct ethhdr *ethernet,
					    const struct iphdr *outer, const void *end)
{
	__u32 outer_length = outer->ihl * 4, total_length = network16(outer->tot_len), inner_length;
	struct ethhdr *moved;
	struct iphdr *inner;
	int ecn;

	/* The MAC's padding may follow the packet; the packet may not be cut. */
	if (outer->ihl < 5 || total_length < outer_length + sizeof(*inner) ||
	    (const void *)outer + total_length > end || !checksum_is_good(outer, end))
		return count(MALFORMED, XDP_DROP);
	moved = (void *)ethernet + outer_length;
	inner = (void *)(moved + 1);
	if ((const void *)(inner + 1) > end)
		return count(MALFORMED, XDP_DROP);
	if (inner->version != 4)
		return count(INNER_NOT_IPV4, XDP_DROP);
	/* Everything else about the inner packet the kernel looks at itself. */
	inner_length = network16(inner->tot_len);
	if (inner->ihl < 5 || inner_length < inner->ihl * 4U || inner_length > total_length - outer_length)
		return count(MALFORMED, XDP_DROP);
	ecn = inner_ecn(outer->tos & ECN_MASK, inner->tos & ECN_MASK);
	if (ecn < 0)
		return count(ECN_DROPPED, XDP_DROP);
	if (ecn != (inner->tos & ECN_MASK))
		set_ecn(inner, ecn);
	/* An outer header is longer than Ethernet's: source and target do not overlap. */
	__builtin_memcpy(moved, ethernet, sizeof(*moved));
	/* It fails for frames without room for an Ethernet header only. */
	if (bpf_xdp_adjust_head(ctx, outer_length))
		return count(MALFORMED, XDP_DROP);
	return count(DECAPSULATED, XDP_PASS);
}

/* Its name, at most 15 bytes, tells whoever finds it on an interface whose it is. */
SEC("xdp") int pointsman_decap(struct xdp_md *ctx)
{
	const void *data = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;
	const struct ethhdr *ethernet = data;
	const struct iphdr *ip = (const void *)(ethernet + 1);
	__be32 destination;

	if ((const void *)(ip + 1) > end || ethernet->h_proto != network16(ETH_P_IP) || ip->version != 4 ||
	    ip->protocol != IPPROTO_IPIP)
		return count(PASSED, XDP_PASS);
	destination = ip->daddr;
	if (!bpf_map_lookup_elem(&endpoints, &destination))
		return count(PASSED, XDP_PASS);
	if (!may_send(ip->saddr))
		return count(BAD_SOURCE, XDP_DROP);
	if (ip->frag_off & FRAGMENT)
		return count(FRAGMENTS, XDP_PASS);
	return decapsulate_ipip(ctx, ethernet, ip, end);
}

char license_text[] SEC("license") = "Dual MIT/GPL";
