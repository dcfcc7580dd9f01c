/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Reads numbers and pointers in the kernel's memory. What cannot be read is 0.
 *
 * Since Linux 6.2 there is bpf_rdonly_cast(), after which a program may load from an address as it does
 * from its own memory. It costs no instruction, and a load that faults gives 0. Each call of
 * bpf_probe_read_kernel() takes as long as some thirty such loads.
 */
#ifndef KERNEL_MEMORY_BPF_H
#define KERNEL_MEMORY_BPF_H

/*
 * The number of the kernel's type that addresses are cast to, a structure that begins with a number of 64
 * bits; or 0 if the kernel has no bpf_rdonly_cast(). Then user space has taken out the calls of it.
 */
const volatile __u32 word_type = 0;

extern void *bpf_rdonly_cast(const void *address, __u32 type) __ksym __weak;

static __always_inline __u32 u32_at(void *structure, __u32 offset)
{
	__u32 value = 0;

	if (word_type)
		return *(volatile __u32 *)bpf_rdonly_cast(structure + offset, word_type);
	bpf_probe_read_kernel(&value, sizeof(value), structure + offset);
	return value;
}

static __always_inline __u64 u64_at(void *structure, __u32 offset)
{
	__u64 value = 0;

	if (word_type)
		return *(volatile __u64 *)bpf_rdonly_cast(structure + offset, word_type);
	bpf_probe_read_kernel(&value, sizeof(value), structure + offset);
	return value;
}

static __always_inline void *pointer_at(void *structure, __u32 offset)
{
	return (void *)u64_at(structure, offset);
}

/*
 * Reads two words of a structure, the first one first. Often the second follows the first, and one call
 * of bpf_probe_read_kernel() is enough for both.
 */
static __always_inline void two_at(void *structure, __u32 first, __u32 second, __u64 words[2])
{
	if (!word_type && second == first + sizeof(__u64)) {
		bpf_probe_read_kernel(words, 2 * sizeof(__u64), structure + first);
	} else {
		words[0] = u64_at(structure, first);
		words[1] = u64_at(structure, second);
	}
}

#endif
