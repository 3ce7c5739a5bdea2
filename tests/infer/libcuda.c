/* A CUDA driver with no GPU behind it: memory is malloc, work is done when somebody waits, and the rules are enforced.
 *
 * Both CUDA bindings load it as libcuda.so.1, so that what the adapters call, with which arguments and in which order,
 * is checked for real. A broken rule gives CUDA's own error code and is counted with its name in fake_broken().
 * No declaration of NVIDIA's is used: handles are pointers and numbers here.
 *
 * FAKE_DEVICES (1), FAKE_INTEGRATED (0) and FAKE_INIT (0, the code that cuInit gives) come from the environment.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int Result;
typedef uint64_t Address;
enum { OK = 0, INVALID_VALUE = 1, NO_DEVICE = 100, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_READY = 600,
       CAPTURE_UNSUPPORTED = 900 };

static int number(const char *name, int otherwise) { const char *v = getenv(name); return v ? atoi(v) : otherwise; }

/* ---- what was broken ---- */
static char broken[4096];
const char *fake_broken(void) { return broken; }
void fake_pardon(void) { broken[0] = 0; }
static Result fail(Result code, const char *rule) {
    if (strlen(broken) + strlen(rule) + 2 < sizeof broken) { strcat(broken, rule); strcat(broken, "\n"); }
    return code;
}

/* ---- contexts: one, the primary; a stack for each thread ---- */
static int retained;
static __thread int depth;
static char context;
#define IN_CONTEXT(call) do { if (!retained || depth < 1) return fail(INVALID_CONTEXT, call " without the context"); } while (0)

/* ---- memory ---- */
enum Kind { HOST, DEVICE };
typedef struct { char *at; size_t size; enum Kind kind; int mapped; } Block;
enum { MOST = 1024 };
static Block blocks[MOST];
static int block_count;
static Block *block_of(const void *at, size_t size) {
    for (int i = 0; i < block_count; i++)
        if (blocks[i].at && (const char *)at >= blocks[i].at && (const char *)at + size <= blocks[i].at + blocks[i].size)
            return &blocks[i];
    return 0;
}
static char *allocate(size_t size, enum Kind kind, int mapped) {
    char *at = malloc(size);
    memset(at, 0xEE, size); /* fresh memory holds anything */
    int free_one = 0;
    while (free_one < block_count && blocks[free_one].at) free_one++;
    if (free_one == MOST) abort();
    if (free_one == block_count) block_count++;
    blocks[free_one] = (Block){at, size, kind, mapped};
    return at;
}
int fake_blocks(void) { int live = 0; for (int i = 0; i < block_count; i++) live += blocks[i].at != 0; return live; }

/* ---- the stream: a queue; a graph: a list of the same work ---- */
enum What { COPY, KERNEL, RECORD, CALL };
typedef struct { int recorded, passed, live; double at_ms; } Event;
typedef void (*Call)(void);
typedef struct { enum What what; void *to; const void *from; size_t size; Event *event; Call call; } Work;
typedef struct { Work work[64]; int count, live, kernels; } Graph;
static Work queue[MOST];
static int queued, streams, captures;
static Graph *capturing;
static double now_ms;
static char stream_handle;
static double clock_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e3 + t.tv_nsec / 1e6; }
int fake_captures(void) { return captures; }

static Result add(void *stream, Work work) {
    if (stream != &stream_handle) return fail(INVALID_HANDLE, "work on another stream than the one that was made");
    if (capturing) { capturing->kernels += work.what == KERNEL; capturing->work[capturing->count++] = work; }
    else if (queued == MOST) abort();
    else queue[queued++] = work;
    return OK;
}
static Result drain(void) {
    Result worst = OK;
    for (int i = 0; i < queued; i++) {
        Work *w = &queue[i];
        if (w->what == CALL) { double began = clock_ms(); w->call(); now_ms += clock_ms() - began; continue; }
        now_ms += 0.5;
        if (w->what == RECORD) { w->event->passed = 1; w->event->at_ms = now_ms; continue; }
        if (!block_of(w->to, w->size) || !block_of(w->from, w->size)) { worst = fail(700, "work on memory that was freed"); continue; }
        for (size_t k = 0; k < w->size; k++)
            ((unsigned char *)w->to)[k] = w->what == COPY ? ((unsigned char *)w->from)[k] : 255 - ((unsigned char *)w->from)[k];
    }
    queued = 0;
    return worst;
}
/* what an engine's launch does here: out = 255 - in, byte by byte */
Result fake_kernel(void *stream, Address to, Address from, size_t size) {
    IN_CONTEXT("a kernel");
    return add(stream, (Work){KERNEL, (void *)to, (const void *)from, size, 0});
}

/* what a whole network's launch does: this function is called when its turn has come */
Result fake_call(void *stream, Call call) {
    IN_CONTEXT("a launch");
    return add(stream, (Work){CALL, 0, 0, 0, 0, call});
}

/* ---- the driver's calls ---- */
Result cuInit(unsigned flags) { return number("FAKE_INIT", 0); }
Result cuDriverGetVersion(int *version) { *version = 12060; return OK; }
Result cuDeviceGetCount(int *count) { *count = number("FAKE_DEVICES", 1); return OK; }
Result cuDeviceGet(int *device, int ordinal) { *device = 0; return ordinal < number("FAKE_DEVICES", 1) ? OK : NO_DEVICE; }
Result cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Orin (no GPU at all)"); return OK; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 16: *value = 8; return OK;
    case 18: *value = number("FAKE_INTEGRATED", 0); return OK;
    case 75: *value = 8; return OK;
    case 76: *value = 7; return OK;
    default: *value = 0; return OK;
    }
}
Result cuDevicePrimaryCtxRetain(void **made, int device) { retained++; *made = &context; return OK; }
Result cuDevicePrimaryCtxRelease(int device) {
    if (retained < 1) return fail(INVALID_CONTEXT, "the context released more often than retained");
    if (queued) fail(0, "the context released while the device works");
    if (streams || fake_blocks()) fail(0, "the context released before what was made in it");
    retained--;
    return OK;
}
Result cuCtxPushCurrent(void *pushed) { if (!retained) return fail(INVALID_CONTEXT, "a released context pushed"); depth++; return OK; }
Result cuCtxPopCurrent(void **popped) { if (depth < 1) return fail(INVALID_CONTEXT, "popped from an empty stack"); depth--; if (popped) *popped = &context; return OK; }
Result cuCtxGetDevice(int *device) { *device = 0; return depth ? OK : INVALID_CONTEXT; }
Result cuCtxGetCurrent(void **current) { *current = depth ? &context : 0; return OK; }
int fake_depth(void) { return depth; }

Result cuStreamCreate(void **made, unsigned flags) { IN_CONTEXT("a stream made"); streams++; *made = &stream_handle; return OK; }
Result cuStreamDestroy(void *stream) { IN_CONTEXT("a stream destroyed"); streams--; return queued ? fail(OK, "a stream destroyed with work in it") : OK; }
Result cuStreamSynchronize(void *stream) { IN_CONTEXT("a stream waited for"); return capturing ? fail(CAPTURE_UNSUPPORTED, "a captured stream waited for") : drain(); }
Result cuEventCreate(void **made, unsigned flags) { IN_CONTEXT("an event made"); Event *e = calloc(1, sizeof *e); e->live = 1; *made = e; return OK; }
Result cuEventDestroy(void *event) { IN_CONTEXT("an event destroyed"); Event *e = event; if (!e->live) return fail(INVALID_HANDLE, "an event destroyed twice"); e->live = 0; return OK; }
Result cuEventRecord(void *event, void *stream) {
    IN_CONTEXT("an event recorded");
    Event *e = event;
    if (!e->live) return fail(INVALID_HANDLE, "a destroyed event recorded");
    e->recorded = 1; e->passed = 0;
    return add(stream, (Work){RECORD, 0, 0, 0, e, 0});
}
Result cuEventSynchronize(void *event) { IN_CONTEXT("an event waited for"); Event *e = event; if (!e->recorded) return fail(INVALID_HANDLE, "an event waited for that was never recorded"); return e->passed ? OK : drain(); }
Result cuEventQuery(void *event) { return ((Event *)event)->passed ? OK : NOT_READY; }
Result cuEventElapsedTime(float *ms, void *start, void *end) {
    Event *a = start, *b = end;
    if (!a->passed || !b->passed) return NOT_READY;
    *ms = (float)(b->at_ms - a->at_ms);
    return OK;
}

Result cuMemAlloc(Address *made, size_t size) { IN_CONTEXT("device memory allocated"); if (!size) return fail(INVALID_VALUE, "no bytes allocated"); *made = (Address)allocate(size, DEVICE, 0); return OK; }
Result cuMemHostAlloc(void **made, size_t size, unsigned flags) { IN_CONTEXT("host memory allocated"); if (!size) return fail(INVALID_VALUE, "no bytes allocated"); *made = allocate(size, HOST, (flags & 2) != 0); return OK; }
static Result free_block(void *at, enum Kind kind) {
    Block *b = block_of(at, 1);
    if (!b || b->at != at || b->kind != kind) return fail(INVALID_VALUE, "memory freed that is not there");
    if (queued) fail(0, "memory freed while the device works");
    memset(b->at, 0xDD, b->size); /* freed, and kept from malloc: who still reads it gets this */
    b->at = 0;
    return OK;
}
Result cuMemFree(Address at) { IN_CONTEXT("device memory freed"); return free_block((void *)at, DEVICE); }
Result cuMemFreeHost(void *at) { IN_CONTEXT("host memory freed"); return free_block(at, HOST); }
Result cuMemHostGetDevicePointer(Address *made, void *at, unsigned flags) {
    Block *b = block_of(at, 1);
    if (!b || !b->mapped) return fail(INVALID_VALUE, "the device address of memory that is not mapped");
    *made = (Address)at;
    return OK;
}
Result cuMemGetInfo(size_t *free_bytes, size_t *total) {
    IN_CONTEXT("memory counted");
    size_t used = 0;
    for (int i = 0; i < block_count; i++) used += blocks[i].at && blocks[i].kind == DEVICE ? blocks[i].size : 0;
    *total = 1u << 30; *free_bytes = *total - used;
    return OK;
}
static Result copy(Address device, void *host, size_t size, void *stream, int in) {
    Block *d = block_of((void *)device, size), *h = block_of(host, size);
    if (!d || d->kind != DEVICE) return fail(INVALID_VALUE, "a copy beyond device memory");
    if (!h || h->kind != HOST) return fail(INVALID_VALUE, "an asynchronous copy with memory that is not page-locked");
    return add(stream, in ? (Work){COPY, (void *)device, host, size, 0, 0} : (Work){COPY, host, (void *)device, size, 0, 0});
}
Result cuMemcpyHtoDAsync(Address to, void *from, size_t size, void *stream) { IN_CONTEXT("a copy"); return copy(to, from, size, stream, 1); }
Result cuMemcpyDtoHAsync(void *to, Address from, size_t size, void *stream) { IN_CONTEXT("a copy"); return copy(from, to, size, stream, 0); }

Result cuStreamBeginCapture(void *stream, int mode) {
    IN_CONTEXT("a capture");
    if (queued) fail(0, "a capture begun while the stream works");
    if (mode != 1) fail(0, "a capture that is not thread-local");
    capturing = calloc(1, sizeof *capturing);
    capturing->live = 1;
    captures++;
    return OK;
}
Result cuStreamEndCapture(void *stream, void **graph) {
    IN_CONTEXT("a capture");
    Graph *done = capturing;
    capturing = 0;
    if (!done || getenv("FAKE_CAPTURE_FAILS")) { *graph = 0; return 901; }
    *graph = done;
    return OK;
}
Result cuGraphInstantiate(void **made, void *graph, unsigned long long flags) {
    IN_CONTEXT("a graph");
    Graph *copied = malloc(sizeof *copied);
    *copied = *(Graph *)graph;
    *made = copied;
    return OK;
}
Result cuGraphDestroy(void *graph) { IN_CONTEXT("a graph"); free(graph); return OK; }
Result cuGraphLaunch(void *graph, void *stream) {
    IN_CONTEXT("a graph");
    Graph *g = graph;
    if (!g->live) return fail(INVALID_HANDLE, "a destroyed graph launched");
    for (int i = 0; i < g->count; i++) add(stream, g->work[i]);
    return OK;
}
Result cuGraphExecDestroy(void *graph) {
    IN_CONTEXT("a graph");
    if (queued) fail(0, "a graph destroyed while the device works");
    ((Graph *)graph)->live = 0;
    return OK;
}
Result cuGetErrorName(Result code, const char **name) { *name = code == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : "CUDA_ERROR"; return OK; }
Result cuGetErrorString(Result code, const char **text) { return cuGetErrorName(code, text); }

/* the names under which the headers and the bindings reach the same calls */
#define ALSO(name, other) extern __typeof(name) other __attribute__((alias(#name)))
ALSO(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2);
ALSO(cuCtxPushCurrent, cuCtxPushCurrent_v2);
ALSO(cuCtxPopCurrent, cuCtxPopCurrent_v2);
ALSO(cuStreamDestroy, cuStreamDestroy_v2);
ALSO(cuEventDestroy, cuEventDestroy_v2);
ALSO(cuEventElapsedTime, cuEventElapsedTime_v2);
ALSO(cuMemAlloc, cuMemAlloc_v2);
ALSO(cuMemFree, cuMemFree_v2);
ALSO(cuMemHostGetDevicePointer, cuMemHostGetDevicePointer_v2);
ALSO(cuGraphInstantiate, cuGraphInstantiateWithFlags);
ALSO(cuMemGetInfo, cuMemGetInfo_v2);
ALSO(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2);
ALSO(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2);

/* how cuda-python finds them */
Result cuGetProcAddress_v2(const char *symbol, void **found, int version, uint64_t flags, int *status) {
    *found = dlsym(RTLD_DEFAULT, symbol);
    if (!*found) {
        void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
        *found = self ? dlsym(self, symbol) : 0;
    }
    if (status) *status = *found ? 0 : 1;
    return OK;
}
ALSO(cuGetProcAddress_v2, cuGetProcAddress);
