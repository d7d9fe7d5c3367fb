/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A program's counters: one for each way in which it ends, of `enum counter`,
 * which stands before this and ends with COUNTERS.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline int count(__u32 counter, int action)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		(*value)++;
	return action;
}
