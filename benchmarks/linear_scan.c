/* iptables' walk without iptables: rules one after the other, jumps into chains and back (ip_tables.c ipt_do_table).
   Built by benchmarks/ratios.py with gcc -O3 -march=native: what a good compiler makes of the same linear scan. */
#include <stdint.h>

struct rule {
    uint32_t src, smask, dst, dmask;
    uint16_t protocol, port_low, port_high;
    uint8_t not_src, not_dst, never; /* never: a match that no packet of the trace meets */
    uint8_t target;                  /* 0 go on, 1 jump, 2 return, 3 end */
    int32_t to;                      /* first rule of the chain that is jumped to */
};

struct packet { uint32_t src, dst; uint16_t protocol, port; };

/* For each packet the number of the rule that ends its walk, -1 where none does. A chain ends with a rule whose target is 2. */
void scan(const struct rule *rules, int32_t first, const struct packet *packets, int64_t count, int32_t *out)
{
    for (int64_t n = 0; n < count; n++) {
        const struct packet p = packets[n];
        int32_t stack[16], at = first, depth = 0;
        for (;;) {
            const struct rule *r = &rules[at];
            int holds = ((p.src & r->smask) == r->src) != r->not_src && ((p.dst & r->dmask) == r->dst) != r->not_dst &&
                        (!r->protocol || r->protocol == p.protocol) && p.port >= r->port_low && p.port <= r->port_high && !r->never;
            if (!holds || r->target == 0) {
                at++;
                continue;
            }
            if (r->target == 1) {
                stack[depth++] = at + 1;
                at = r->to;
            } else if (r->target == 2) {
                if (!depth) {
                    out[n] = -1;
                    break;
                }
                at = stack[--depth];
            } else {
                out[n] = at;
                break;
            }
        }
    }
}
