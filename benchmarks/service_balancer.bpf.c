/* What an eBPF load balancer does to a packet for a service: the look-ups and the rewriting of Cilium's bpf/lib/lb.h (lb4_lookup_service,
   lb4_select_backend_id_random, __lb4_lookup_backend_slot, lb4_lookup_backend, lb4_xlate), without its connection tracking.

   balance = select + the load balancer; select writes the address of a service into the packet, so that one packet is many. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct __sk_buff { u32 before[19], data, data_end; }; /* include/uapi/linux/bpf.h; the offsets are the kernel's */
static void *(*const lookup)(const void *map, const void *key) = (void *)1;
static u32 (*const random_u32)(void) = (void *)7;

struct frame { /* Ethernet, IPv4 without options, UDP */
	u8 ethernet[12]; u16 type; u8 version, tos; u16 length, id, fragment; u8 ttl, protocol; u16 ip_sum;
	u32 source, destination; u16 sport, dport, udp_length, udp_sum;
} __attribute__((packed, aligned(2)));

struct choice { u32 services, from; };                                      /* one of so many at random, from this one on */
struct address { u32 address; u16 port, ip_sum, udp_sum, unused; };         /* a service's, and a packet's checksums with it */
struct service_key { u32 address; u16 port, slot; u8 protocol, scope, unused[2]; };
struct service { u32 backend; u16 count, rev_nat; u8 flags[4]; };           /* slot 0: count; others: a backend's number */
struct backend { u32 address; u16 port; u8 protocol, flags; };

extern const struct map choices, addresses, services, backends;

#define SECTION(name) __attribute__((section(name), used))
#define MISS (~0U)

static __attribute__((always_inline)) u32 choose(struct frame *packet, void *end)
{
	u32 zero = 0, number;
	const struct choice *choice = lookup(&choices, &zero);
	const struct address *address;

	if ((void *)(packet + 1) > end || !choice)
		return MISS;
	number = ((u64)random_u32() * choice->services >> 32) + choice->from;
	address = lookup(&addresses, &number);
	if (!address)
		return MISS;
	packet->destination = address->address;
	packet->dport = address->port;
	packet->ip_sum = address->ip_sum;
	packet->udp_sum = address->udp_sum;
	return number;
}

static __attribute__((always_inline)) u16 folded(u16 sum, u32 old, u32 new, u16 old_port, u16 new_port)
{ /* RFC 1624 */
	u32 found = (u16)~sum + (u16)~old + (u16)~(old >> 16) + (u16)new + (new >> 16) + (u16)~old_port + new_port;

	found = (found & 0xffff) + (found >> 16);
	return ~((found & 0xffff) + (found >> 16));
}

SECTION("tc/select") int select(struct __sk_buff *skb)
{
	return choose((void *)(long)skb->data, (void *)(long)skb->data_end);
}

SECTION("tc/balance") int balance(struct __sk_buff *skb)
{
	struct frame *packet = (void *)(long)skb->data;
	struct service_key key = {};
	const struct service *service;
	const struct backend *backend;
	u16 rev_nat;

	if (choose(packet, (void *)(long)skb->data_end) == MISS)
		return MISS;
	asm volatile("" ::: "memory"); /* from here on all is read from the packet */
	if (packet->type != 8 || packet->version != 0x45 || packet->protocol != 17)
		return MISS;
	key.address = packet->destination;
	key.port = packet->dport;
	key.protocol = packet->protocol;
	service = lookup(&services, &key);
	if (!service || !service->count)
		return MISS;
	rev_nat = service->rev_nat;
	key.slot = random_u32() % service->count + 1;
	service = lookup(&services, &key);
	if (!service)
		return MISS;
	backend = lookup(&backends, &service->backend);
	if (!backend)
		return MISS;
	packet->ip_sum = folded(packet->ip_sum, packet->destination, backend->address, 0, 0);
	packet->udp_sum = folded(packet->udp_sum, packet->destination, backend->address, packet->dport, backend->port);
	packet->destination = backend->address;
	packet->dport = backend->port;
	return rev_nat;
}
