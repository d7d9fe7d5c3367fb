// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Steering: which frames are the balancer's, and so go to the AF_XDP socket of
 * the queue they came in by? All else goes to the host as if nobody was here.
 * It decides nothing else.
 *
 *   ARP about an address that this node announces           -> socket
 *   IPv4 to a VIP's address, our MAC:
 *     TCP or UDP to a port that a VIP serves                 -> socket
 *     the address is also the host's own: anything else      -> host
 *     fragments, ICMP, and what cannot be read               -> socket
 *     anything else: nobody serves it, and the host must
 *     not route it on                                        -> dropped, counted
 *   all else                                                 -> host
 *
 * The maps' layout has its twin in src/dataplane/port/steering.rs.
 */
#include "program.h"

static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)51;

/* Queues per interface; the fattest NICs have a few hundred. */
#define MOST_QUEUES 1024
/* A destination each: as many as there can be VIPs. */
#define MOST_SERVICES 65536

enum counter { REDIRECTED, PASSED, UNSERVED, NO_SOCKET, COUNTERS };

enum address_flag {
	ANNOUNCED = 1, /* this node answers ARP for it */
	HOST = 2,      /* it is also the host's own */
};

struct service {
	__be32 address;
	__be16 port; /* 0: any port */
	__u8 protocol;
	__u8 zero;
};

struct arp_ipv4 {
	__be16 hardware, protocol;
	__u8 hardware_length, protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target[4];
} __attribute__((packed));

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MOST_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_SERVICES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service);
	__type(value, __u8);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_SERVICES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, __u32);
} addresses SEC(".maps");

/* The interface's own MAC, in the first six bytes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} own_mac SEC(".maps");

#include "counters.h"

static __always_inline int to_host(void)
{
	return count(PASSED, XDP_PASS);
}

static __always_inline int to_socket(struct xdp_md *ctx)
{
	/* Where there is no socket, the lowest bits of the flags are the answer. */
	int action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);

	return count(action == XDP_REDIRECT ? REDIRECTED : NO_SOCKET, action);
}

static __always_inline int is_announced(const __u8 *bytes)
{
	__be32 address;
	__u32 *flags;

	__builtin_memcpy(&address, bytes, sizeof(address));
	flags = bpf_map_lookup_elem(&addresses, &address);
	return flags && (*flags & ANNOUNCED) && !(*flags & HOST);
}

static __always_inline int steer_arp(struct xdp_md *ctx, const struct arp_ipv4 *arp, const void *end)
{
	if ((const void *)(arp + 1) > end)
		return to_host();
	if (is_announced(arp->target) || is_announced(arp->sender))
		return to_socket(ctx);
	return to_host();
}

static __always_inline int is_for_us(const struct ethhdr *ethernet)
{
	__u32 zero = 0;
	const __u16 *own = bpf_map_lookup_elem(&own_mac, &zero);
	const __u16 *frames = (const void *)ethernet->h_dest;

	/* Not memcmp: clang makes that a call, and there is nothing to call. */
	return own && frames[0] == own[0] && frames[1] == own[1] && frames[2] == own[2];
}

static __always_inline int is_served(const struct iphdr *ip, __be16 port)
{
	struct service key = { .address = ip->daddr, .port = port, .protocol = ip->protocol };

	if (bpf_map_lookup_elem(&services, &key))
		return 1;
	key.port = 0;
	return bpf_map_lookup_elem(&services, &key) != 0;
}

static __always_inline int steer_ipv4(struct xdp_md *ctx, const struct ethhdr *ethernet, const void *end)
{
	const struct iphdr *ip = (const void *)(ethernet + 1);
	const __be16 *ports;
	__be32 destination;
	__u32 *flags;

	if ((const void *)(ip + 1) > end)
		return to_host();
	destination = ip->daddr;
	flags = bpf_map_lookup_elem(&addresses, &destination);
	if (!flags || !is_for_us(ethernet))
		return to_host();
	if (ip->version == 4 && ip->ihl >= 5 && !(ip->frag_off & FRAGMENT)) {
		if (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) {
			ports = (const void *)ip + ip->ihl * 4;
			if ((const void *)(ports + 2) <= end) {
				if (is_served(ip, ports[1]))
					return to_socket(ctx);
				return *flags & HOST ? to_host() : count(UNSERVED, XDP_DROP);
			}
		} else if (ip->protocol != IPPROTO_ICMP) {
			return *flags & HOST ? to_host() : count(UNSERVED, XDP_DROP);
		}
	}
	/* Fragments, ICMP, and what cannot be read: the worker names the reason. */
	return *flags & HOST ? to_host() : to_socket(ctx);
}

/* Its name, at most 15 bytes, tells whoever finds it on an interface whose it is. */
SEC("xdp") int pointsman_steer(struct xdp_md *ctx)
{
	const void *data = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;
	const struct ethhdr *ethernet = data;

	if ((const void *)(ethernet + 1) > end)
		return to_host();
	if (ethernet->h_proto == network16(ETH_P_IP))
		return steer_ipv4(ctx, ethernet, end);
	if (ethernet->h_proto == network16(ETH_P_ARP))
		return steer_arp(ctx, (const void *)(ethernet + 1), end);
	return to_host();
}

char license_text[] SEC("license") = "Dual MIT/GPL";
