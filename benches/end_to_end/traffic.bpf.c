// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The traffic of the end-to-end bench: where it begins, where it ends, and how
 * it reaches the socket of the forwarder that everything is compared with.
 *
 *   generate   run by BPF_PROG_TEST_RUN with live frames: frames of many flows
 *   probe      the same for one frame, and notes when it left
 *   sink       on the receiving end: counts frames and drops them
 *   redirect   the baseline's steering: IPv4 to the socket, nothing else
 *
 * The maps and constants have their twins in traffic.rs and forwarder.rs.
 */
#include "../../bpf/program.h"

#include <linux/udp.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define network32(x) __builtin_bswap32(x)
#else
#define network32(x) (x)
#endif

static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)51;

/* What the loader fills in. */
const volatile __u32 flows = 1;
const volatile __u32 vip = 0;          /* host byte order, as all addresses here */
const volatile __u32 first_source = 0; /* the low 16 bits are 0 */
const volatile __u32 first_member = 0;
const volatile __u32 members = 0;
const volatile __u32 encapsulated = 0; /* the sink expects IP in IP */

/* A flow is a source address and one of so many ports. */
#define PORTS 16384
#define FIRST_PORT 1024
/* Neighbouring frames belong to flows that are far from each other, and every
 * flow comes once before any comes twice: a prime beyond any number of flows. */
#define STRIDE 2147483647ULL
/* After a pause no more than so much of the traffic is made up for: 100 us. */
#define CATCH_UP (100000ULL << 8)

enum counter { GENERATED, GOOD, BAD, COUNTERS };
enum moment { LEFT, ARRIVED, MOMENTS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* The time from one frame to the next in 1/256 ns; 0: as fast as it goes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} pace SEC(".maps");

/* When a probe left and when it arrived: CLOCK_MONOTONIC, 0 is "not yet". */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MOMENTS);
	__type(key, __u32);
	__type(value, __u64);
} moments SEC(".maps");

/* The interface that frames are sent out of. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} way_out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* A frame of the template's layout. Its IP header is not aligned, so it has no
 * name here: ip_of() knows where it is. */
struct datagram {
	struct ethhdr ethernet;
	__u8 ip[sizeof(struct iphdr)];
	struct udphdr udp;
} __attribute__((packed));

#define ip_of(frame) ((void *)(frame)->ip)

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		(*value)++;
}

/* One generator runs at a time: what it remembers needs no lock. */
static __u64 next_due;
static __u64 generated;

static __always_inline int is_due(void)
{
	__u32 zero = 0;
	__u64 now, *step = bpf_map_lookup_elem(&pace, &zero);

	if (!step || !*step)
		return 1;
	now = bpf_ktime_get_ns() << 8;
	if (now < next_due)
		return 0;
	if (now - next_due > CATCH_UP)
		next_due = now;
	next_due += *step;
	return 1;
}

static __always_inline __u16 checksum(const struct iphdr *ip)
{
	const __u16 *words = (const void *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* Makes the next flow's frame of the template. Pages come back with what was
 * written to them before, so every field that differs is written each time. */
static __always_inline int emit(struct xdp_md *ctx)
{
	struct datagram *frame = (void *)(long)ctx->data;
	struct iphdr *ip = ip_of(frame);
	__u32 flow;

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	flow = generated++ * STRIDE % flows;
	ip->saddr = network32(first_source + flow / PORTS);
	ip->check = 0;
	ip->check = checksum(ip);
	frame->udp.source = network16(FIRST_PORT + flow % PORTS);
	count(GENERATED);
	return bpf_redirect_map(&way_out, 0, XDP_ABORTED);
}

SEC("xdp") int generate(struct xdp_md *ctx)
{
	return is_due() ? emit(ctx) : XDP_DROP;
}

static __always_inline void note(__u32 moment)
{
	__u64 *value = bpf_map_lookup_elem(&moments, &moment);

	if (value)
		*value = bpf_ktime_get_ns();
}

SEC("xdp") int probe(struct xdp_md *ctx)
{
	note(LEFT);
	return emit(ctx);
}

/* A probe is under way: it has left and has not arrived. */
static __always_inline int is_awaited(void)
{
	__u32 left = LEFT, arrived = ARRIVED;
	__u64 *begin = bpf_map_lookup_elem(&moments, &left);
	__u64 *end = bpf_map_lookup_elem(&moments, &arrived);

	return begin && end && *begin && !*end;
}

/* Members' MACs are 02:00:00:00:01:01, :02, ...: which one is this, from 0? */
static __always_inline __u32 member_of(const struct ethhdr *ethernet)
{
	const __u16 *words = (const void *)ethernet->h_dest;

	if (words[0] != network16(0x0200) || words[1] != 0 || ethernet->h_dest[4] != 1)
		return members;
	return (__u32)ethernet->h_dest[5] - 1;
}

static __always_inline int is_as_expected(const struct datagram *frame, const void *end)
{
	const struct iphdr *ip = ip_of(frame);
	__u32 member = member_of(&frame->ethernet);

	if (member >= members)
		return 0;
	if (encapsulated) {
		const struct iphdr *outer = ip++;

		if ((const void *)(ip + 1) > end)
			return 0;
		if (outer->ihl != 5 || outer->protocol != IPPROTO_IPIP ||
		    outer->daddr != network32(first_member + member) ||
		    network16(outer->tot_len) != network16(ip->tot_len) + sizeof(*outer))
			return 0;
	}
	return ip->protocol == IPPROTO_UDP && ip->daddr == network32(vip);
}

SEC("xdp") int sink(struct xdp_md *ctx)
{
	const struct datagram *frame = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;

	if ((const void *)(frame + 1) > end || frame->ethernet.h_proto != network16(ETH_P_IP))
		return XDP_PASS;
	if (is_awaited())
		note(ARRIVED);
	count(is_as_expected(frame, end) ? GOOD : BAD);
	return XDP_DROP;
}

SEC("xdp") int redirect(struct xdp_md *ctx)
{
	const struct ethhdr *ethernet = (const void *)(long)ctx->data;

	if ((const void *)(ethernet + 1) > (const void *)(long)ctx->data_end)
		return XDP_PASS;
	if (ethernet->h_proto != network16(ETH_P_IP))
		return XDP_PASS;
	return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
}

char license_text[] SEC("license") = "Dual MIT/GPL";
