/* DPDK's librte_acl on a file of rules and files of packets, on one thread: built and run by benchmarks/bench_acl.py.

       dpdk_acl RULES MAX_SIZE BURST PACKETS...          stdin: ALGORITHM NUMBER [RESULTS]

   RULES are uint32[n][5][2] (benchmarks/acl_rules.py), PACKETS uint32[5][count], RESULTS int32[count]: the first rule that holds.
   Prints how long building took, in ns, and the bytes in use; then, for each line on stdin, classifies that trace once, BURST
   packets a call, and prints the nanoseconds. Memory is the process' own, no devices; what is looked up in lies on huge pages, as
   numpy's large arrays do where the system allows it to those who ask (transparent_hugepage: madvise). */
#include <arpa/inet.h>
#include <errno.h>
#include <rte_acl.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

struct packet { uint8_t protocol, none[3]; uint32_t src, dst; uint16_t sport, dport; };

static const struct rte_acl_field_def fields[] = {
    {RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0, 0},
    {RTE_ACL_FIELD_TYPE_MASK, 4, 1, 1, 4},
    {RTE_ACL_FIELD_TYPE_MASK, 4, 2, 2, 8},
    {RTE_ACL_FIELD_TYPE_RANGE, 2, 3, 3, 12},
    {RTE_ACL_FIELD_TYPE_RANGE, 2, 4, 3, 14},
};
RTE_ACL_RULE_DEF(acl_rule, 5);

static void *whole(const char *name, size_t *size)
{
    FILE *file = fopen(name, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        exit(2);
    *size = ftell(file);
    rewind(file);
    void *data = malloc(*size);
    if (fread(data, 1, *size, file) != *size)
        exit(2);
    fclose(file);
    return data;
}

static int64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int fail(const char *what, int error)
{
    printf("failed %s: %s\n", what, strerror(error < 0 ? -error : error));
    return 1;
}

static enum rte_acl_classify_alg algorithm_of(const char *name)
{
    return !strcmp(name, "avx512x32")   ? RTE_ACL_CLASSIFY_AVX512X32
           : !strcmp(name, "avx512x16") ? RTE_ACL_CLASSIFY_AVX512X16
           : !strcmp(name, "avx2")      ? RTE_ACL_CLASSIFY_AVX2
           : !strcmp(name, "sse")       ? RTE_ACL_CLASSIFY_SSE
                                        : RTE_ACL_CLASSIFY_SCALAR;
}

static void write_rules(const char *name, const uint32_t *results, size_t many)
{
    FILE *file = fopen(name, "wb");
    for (size_t n = 0; n < many; n++) {
        const int32_t rule = (int32_t)results[n] - 1;
        if (!file || !fwrite(&rule, 4, 1, file))
            exit(fail("writing results", 5));
    }
    fclose(file);
}

struct trace { size_t many; const uint8_t **data; uint32_t *results; };

static struct trace load(const char *name)
{
    size_t size;
    const uint32_t *columns = whole(name, &size);
    const size_t many = size / 20;
    struct packet *packets = calloc(many, sizeof *packets);
    struct trace trace = {many, malloc(many * sizeof *trace.data), calloc(many, sizeof *trace.results)};
    for (size_t n = 0; n < many; n++) {
        packets[n].src = htonl(columns[n]);
        packets[n].dst = htonl(columns[many + n]);
        packets[n].sport = htons(columns[2 * many + n]);
        packets[n].dport = htons(columns[3 * many + n]);
        packets[n].protocol = columns[4 * many + n];
        trace.data[n] = (const uint8_t *)&packets[n];
    }
    return trace;
}

/* A heap of DPDK's on transparent huge pages: its own memory, with --no-huge, is shared and so never gets any. */
static int huge_heap(void)
{
    const size_t page = 2 << 20, size = 1024 * page;
    char *memory = mmap(0, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    memory += -(uintptr_t)memory & (page - 1);
    if (madvise(memory, size, MADV_HUGEPAGE) || rte_malloc_heap_create("huge") ||
        rte_malloc_heap_memory_add("huge", memory, size, 0, 0, page))
        exit(fail("huge_heap", rte_errno));
    return rte_malloc_heap_get_socket("huge");
}

int main(int count, char **given)
{
    if (count < 5)
        return 2;
    char *eal[] = {given[0], "--no-huge", "--no-pci", "--no-shconf", "--no-telemetry", "--log-level=critical", "-m", "12288",
                   "--lcores", "0@(0-1)", "--force-max-simd-bitwidth=512"};
    if (rte_eal_init(11, eal) < 0)
        return fail("rte_eal_init", rte_errno);

    size_t size;
    const uint32_t(*rules)[5][2] = whole(given[1], &size);
    const uint32_t number = size / sizeof *rules;
    struct rte_acl_param param = {"rules", huge_heap(), RTE_ACL_RULE_SZ(5), number};
    struct rte_acl_ctx *acl = rte_acl_create(&param);
    if (!acl)
        return fail("rte_acl_create", rte_errno);
    for (uint32_t n = 0; n < number; n++) {
        struct acl_rule rule = {.data = {.category_mask = 1, .priority = RTE_ACL_MAX_PRIORITY - n, .userdata = n + 1}};
        rule.field[0].value.u8 = rules[n][4][0];
        rule.field[0].mask_range.u8 = rules[n][4][0] == rules[n][4][1] ? 255 : 0;
        for (int f = 0; f < 2; f++) {
            const uint32_t span = rules[n][f][1] - rules[n][f][0];
            rule.field[1 + f].value.u32 = rules[n][f][0];
            rule.field[1 + f].mask_range.u32 = span == UINT32_MAX ? 0 : 32 - __builtin_popcount(span);
            rule.field[3 + f].value.u16 = rules[n][2 + f][0];
            rule.field[3 + f].mask_range.u16 = rules[n][2 + f][1];
        }
        const int error = rte_acl_add_rules(acl, (struct rte_acl_rule *)&rule, 1);
        if (error)
            return fail("rte_acl_add_rules", error);
    }
    struct rte_acl_config config = {.num_categories = 1, .num_fields = 5, .max_size = strtoull(given[2], 0, 10)};
    memcpy(config.defs, fields, sizeof fields);
    const int64_t begin = now();
    const int error = rte_acl_build(acl, &config);
    const int64_t built = now() - begin;
    if (error)
        return fail("rte_acl_build", error);
    struct rte_malloc_socket_stats heap = {0};
    rte_malloc_get_socket_stats(param.socket_id, &heap);
    printf("built %lld %zu\n", (long long)built, heap.heap_allocsz_bytes);
    fflush(stdout);

    struct trace traces[count - 4];
    for (int t = 4; t < count; t++)
        traces[t - 4] = load(given[t]);
    const size_t burst = strtoull(given[3], 0, 10);
    char line[512], name[32], file[400];
    for (unsigned number; fgets(line, sizeof line, stdin);) {
        const int words = sscanf(line, "%31s %u %399s", name, &number, file);
        if (words < 2 || number >= (unsigned)count - 4)
            return fail("reading a line", EINVAL);
        const int unknown = rte_acl_set_ctx_classify(acl, algorithm_of(name));
        if (unknown)
            return fail(name, unknown);
        const struct trace t = traces[number];
        const int64_t from = now();
        for (size_t n = 0; n < t.many; n += burst)
            rte_acl_classify(acl, t.data + n, t.results + n, t.many - n < burst ? t.many - n : burst, 1);
        const int64_t took = now() - from;
        if (words == 3)
            write_rules(file, t.results, t.many);
        printf("%lld\n", (long long)took);
        fflush(stdout);
    }
    return 0;
}
