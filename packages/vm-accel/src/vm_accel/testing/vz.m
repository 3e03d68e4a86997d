// The Virtualization framework, as far as vm uses it, over GNU's Objective-C runtime: the classes have the hierarchy and the
// method types of Apple's documentation, and do what it says, but run no guest. Compiled by clang, which gives the encodings:
//   clang -fPIC -shared -fobjc-runtime=gcc -fblocks vz.m -l:libobjc.so.4 -lpthread
//
// What Apple's libraries answer with undefined behaviour, an exception or a leak is written down as a violation, and the call goes
// on: messages to dead objects, unknown selectors, a machine used off its queue, a wait for the queue from the queue itself, an
// object autoreleased without a pool, a nil where none may be.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

typedef _Bool BOOL; // as on Apple silicon
typedef struct objc_class *Class;
typedef struct objc_selector *SEL;
typedef id (*IMP)(id, SEL, ...);
typedef long NSInteger;
typedef unsigned long NSUInteger;
#define YES 1
#define NO 0
#define nil ((id)0)
#define EXPORT __attribute__((visibility("default"), used))

Class objc_lookUpClass(const char *);
IMP objc_msg_lookup(id, SEL);
IMP class_getMethodImplementation(Class, SEL);
const char *class_getName(Class);
id class_createInstance(Class, size_t);
BOOL class_isMetaClass(Class);
const char *sel_getName(SEL);
void *class_getInstanceMethod(Class, SEL);

@class NSString, NSURL, NSArray, NSError, NSData, NSFileHandle;

// -- what the tests ask ---------------------------------------------------------------------------------------------------

enum { LINES = 65536 };
static pthread_mutex_t notes = PTHREAD_MUTEX_INITIALIZER;
static char *violations[LINES], *trace[LINES];
static int violation_count, trace_count;
static long live;

static void violation(const char *format, ...) {
    char *line = NULL;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&line, format, arguments) < 0) abort();
    va_end(arguments);
    pthread_mutex_lock(&notes);
    if (violation_count < LINES) violations[violation_count++] = line;
    pthread_mutex_unlock(&notes);
}

static struct { // what the next machines do
    char name[32];
    long value;
} settings[] = {
    {"supported", 1}, {"entitled", 1}, {"nested", 1}, {"start_error", 0}, {"stop_error", 0}, {"rosetta", 2}, {"savable", 1},
    {"delay_us", 1000}, {"refuse_request", 0}, {"rosetta_install_error", 0},
};

static long *setting(const char *name) {
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (!strcmp(settings[i].name, name)) return &settings[i].value;
    abort();
}

static char hidden[16][96]; // classes and selectors that this "macOS" is too old for
static int hidden_count;

static BOOL is_hidden(const char *name) {
    for (int i = 0; i < hidden_count; i++)
        if (!strcmp(hidden[i], name)) return YES;
    return NO;
}

EXPORT void sim_set(const char *name, long value) { *setting(name) = value; }
EXPORT void sim_hide(const char *name) { snprintf(hidden[hidden_count++], sizeof *hidden, "%s", name); }
EXPORT void sim_show(void) { hidden_count = 0; }
EXPORT const char *sim_violation(int i) { return i < violation_count ? violations[i] : NULL; }
EXPORT const char *sim_message(int i) { return i < trace_count ? trace[i] : NULL; }
EXPORT long sim_live(void) { return __atomic_load_n(&live, __ATOMIC_SEQ_CST); }
EXPORT void sim_forget(void) {
    pthread_mutex_lock(&notes);
    violation_count = trace_count = 0;
    pthread_mutex_unlock(&notes);
}

// -- objects ----------------------------------------------------------------------------------------------------------------

enum { SLOTS = 12 };

__attribute__((objc_root_class)) @interface NSObject {
    @public
    Class isa;
    long references; // 0: dead; the memory is kept, so that a message to it is seen
    id slots[SLOTS]; // owned, released with the object
}
+ (id)alloc;
- (id)init;
- (void)end;
@end

EXPORT Class object_getClass(id object) { return object ? *(Class *)object : NULL; }

static const char *name_of(id object) { return class_getName(object_getClass(object)); }

static __thread struct { id *items; size_t count, room, depth; } pool;

EXPORT id objc_retain(id object) {
    NSObject *it = (NSObject *)object;
    if (it && __atomic_fetch_add(&it->references, 1, __ATOMIC_SEQ_CST) <= 0)
        violation("retain of a dead %s", name_of(object));
    return object;
}

EXPORT void objc_release(id object) {
    NSObject *it = (NSObject *)object;
    if (!it) return;
    long before = __atomic_fetch_sub(&it->references, 1, __ATOMIC_SEQ_CST);
    if (before <= 0) violation("release of a dead %s", name_of(object));
    if (before == 1) {
        [it end];
        for (int i = 0; i < SLOTS; i++) objc_release(it->slots[i]);
        __atomic_fetch_sub(&live, 1, __ATOMIC_SEQ_CST);
    }
}

static id objc_autorelease(id object) {
    if (!object) return nil;
    if (!pool.depth) violation("%s autoreleased without a pool", name_of(object));
    if (pool.count == pool.room) {
        pool.room = pool.room ? pool.room * 2 : 64;
        pool.items = realloc(pool.items, pool.room * sizeof *pool.items);
    }
    pool.items[pool.count++] = object;
    return object;
}

EXPORT void *objc_autoreleasePoolPush(void) {
    pool.depth++;
    return (void *)(pool.count + 1);
}

EXPORT void objc_autoreleasePoolPop(void *mark) {
    if (!pool.depth || (size_t)mark > pool.count + 1) violation("pools are popped out of order");
    while (pool.count + 1 > (size_t)mark) objc_release(pool.items[--pool.count]);
    pool.depth--;
}

@implementation NSObject
+ (id)alloc {
    NSObject *made = (NSObject *)class_createInstance((Class)self, 0);
    made->references = 1;
    __atomic_fetch_add(&live, 1, __ATOMIC_SEQ_CST);
    return made;
}
- (id)init { return self; }
- (void)end {}
@end

static void put(NSObject *owner, int slot, id value) {
    objc_retain(value);
    objc_release(owner->slots[slot]);
    owner->slots[slot] = value;
}

static id needed(id value, const char *what) {
    if (!value) violation("nil for %s", what);
    return value;
}

// -- the runtime's own entry points -----------------------------------------------------------------------------------------

EXPORT Class objc_getClass(const char *name) { return is_hidden(name) ? NULL : objc_lookUpClass(name); }

static BOOL responds(Class class, SEL selector) {
    return !is_hidden(sel_getName(selector)) && class_getInstanceMethod(class, selector);
}

EXPORT BOOL class_respondsToSelector(Class class, SEL selector) { return responds(class, selector); }

static __thread struct queue *current; // whose work this thread does

static id nothing(id self, SEL selector, ...) { return nil; }

EXPORT IMP sim_lookup(id receiver, SEL selector) {
    Class class = object_getClass(receiver);
    BOOL is_class = class_isMetaClass(class);
    const char *name = class_getName(is_class ? (Class)receiver : class);
    char *line = NULL;
    if (asprintf(&line, "%s %c[%s %s]", current ? "queue" : "-", is_class ? '+' : '-', name, sel_getName(selector)) < 0) abort();
    pthread_mutex_lock(&notes);
    if (trace_count < LINES) trace[trace_count++] = line;
    pthread_mutex_unlock(&notes);
    if (!is_class && ((NSObject *)receiver)->references <= 0) violation("%s to a dead %s", sel_getName(selector), name);
    if (!responds(class, selector)) {
        violation("%s: unrecognized selector %s", name, sel_getName(selector));
        return nothing;
    }
    return class_getMethodImplementation(class, selector);
}

// As Apple's: all argument registers reach the method as they came; a message to nil gives 0.
#if defined(__x86_64__)
__asm__(".text\n.globl objc_msgSend\n.type objc_msgSend,@function\nobjc_msgSend:\n"
        "test %rdi,%rdi\nje 1f\n"
        "push %rbp\nmov %rsp,%rbp\nsub $192,%rsp\n"
        "mov %rdi,-8(%rbp)\nmov %rsi,-16(%rbp)\nmov %rdx,-24(%rbp)\nmov %rcx,-32(%rbp)\nmov %r8,-40(%rbp)\nmov %r9,-48(%rbp)\n"
        "movups %xmm0,-64(%rbp)\nmovups %xmm1,-80(%rbp)\nmovups %xmm2,-96(%rbp)\nmovups %xmm3,-112(%rbp)\n"
        "movups %xmm4,-128(%rbp)\nmovups %xmm5,-144(%rbp)\nmovups %xmm6,-160(%rbp)\nmovups %xmm7,-176(%rbp)\n"
        "call sim_lookup@PLT\nmov %rax,%r11\n"
        "mov -8(%rbp),%rdi\nmov -16(%rbp),%rsi\nmov -24(%rbp),%rdx\nmov -32(%rbp),%rcx\nmov -40(%rbp),%r8\nmov -48(%rbp),%r9\n"
        "movups -64(%rbp),%xmm0\nmovups -80(%rbp),%xmm1\nmovups -96(%rbp),%xmm2\nmovups -112(%rbp),%xmm3\n"
        "movups -128(%rbp),%xmm4\nmovups -144(%rbp),%xmm5\nmovups -160(%rbp),%xmm6\nmovups -176(%rbp),%xmm7\n"
        "leave\njmp *%r11\n"
        "1: xor %eax,%eax\nxor %edx,%edx\nret\n.size objc_msgSend,.-objc_msgSend\n");
#elif defined(__aarch64__)
__asm__(".text\n.globl objc_msgSend\n.type objc_msgSend,%function\nobjc_msgSend:\n"
        "cbz x0,1f\n"
        "stp x29,x30,[sp,#-224]!\nmov x29,sp\n"
        "stp x0,x1,[sp,#16]\nstp x2,x3,[sp,#32]\nstp x4,x5,[sp,#48]\nstp x6,x7,[sp,#64]\nstr x8,[sp,#80]\n"
        "stp q0,q1,[sp,#96]\nstp q2,q3,[sp,#128]\nstp q4,q5,[sp,#160]\nstp q6,q7,[sp,#192]\n"
        "bl sim_lookup\nmov x16,x0\n"
        "ldp x0,x1,[sp,#16]\nldp x2,x3,[sp,#32]\nldp x4,x5,[sp,#48]\nldp x6,x7,[sp,#64]\nldr x8,[sp,#80]\n"
        "ldp q0,q1,[sp,#96]\nldp q2,q3,[sp,#128]\nldp q4,q5,[sp,#160]\nldp q6,q7,[sp,#192]\n"
        "ldp x29,x30,[sp],#224\nbr x16\n"
        "1: mov x1,#0\nret\n.size objc_msgSend,.-objc_msgSend\n");
#else
#error "objc_msgSend is not written for this CPU"
#endif

// -- blocks -----------------------------------------------------------------------------------------------------------------

EXPORT void *_NSConcreteGlobalBlock[32];

struct block {
    void *isa;
    int flags, reserved;
    void *invoke;
    struct { unsigned long reserved, size; const char *signature; } *descriptor;
};

static struct block *copied(void *pointer, const char *signature) { // Block_copy, which for these is nothing
    struct block *block = pointer;
    if (!block) violation("nil for a completion handler");
    else if (block->isa != _NSConcreteGlobalBlock || !(block->flags & 1 << 28)) violation("a block that is not global");
    else if (!(block->flags & 1 << 30) || strcmp(block->descriptor->signature, signature))
        violation("a block without the signature %s", signature);
    else if (block->descriptor->size < sizeof *block) violation("a block that says it has %lu bytes", block->descriptor->size);
    return block;
}

static void released(struct block *block) { // Block_release reads the flags after the call
    if (!(block->flags & 1 << 28)) violation("a block that changed after its call");
}

// -- queues: first come, first served, by tickets -----------------------------------------------------------------------------

@interface OS_dispatch_queue : NSObject
{
    @public
    struct queue *state;
}
@end

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t turn;
    unsigned long next, serving;
};

@implementation OS_dispatch_queue
- (void)end {
    if (state->next != state->serving) violation("a queue that goes while it has work");
}
@end

EXPORT OS_dispatch_queue *dispatch_queue_create(const char *label, id attributes) {
    if (attributes) violation("a queue that is not serial");
    OS_dispatch_queue *made = [[OS_dispatch_queue alloc] init];
    made->state = calloc(1, sizeof *made->state);
    pthread_mutex_init(&made->state->lock, NULL);
    pthread_cond_init(&made->state->turn, NULL);
    return made;
}

EXPORT void dispatch_retain(id object) { objc_retain(object); }

EXPORT void dispatch_release(id object) { objc_release(object); }

static unsigned long ticket(struct queue *queue) {
    pthread_mutex_lock(&queue->lock);
    unsigned long mine = queue->next++;
    pthread_mutex_unlock(&queue->lock);
    return mine;
}

static void served(struct queue *queue, unsigned long mine, void *context, void (*work)(void *)) {
    pthread_mutex_lock(&queue->lock);
    while (queue->serving != mine) pthread_cond_wait(&queue->turn, &queue->lock);
    pthread_mutex_unlock(&queue->lock);
    struct queue *before = current;
    current = queue;
    void *mark = objc_autoreleasePoolPush();
    work(context);
    objc_autoreleasePoolPop(mark);
    current = before;
    pthread_mutex_lock(&queue->lock);
    queue->serving++;
    pthread_cond_broadcast(&queue->turn);
    pthread_mutex_unlock(&queue->lock);
}

EXPORT void dispatch_sync_f(OS_dispatch_queue *queue, void *context, void (*work)(void *)) {
    if (current == queue->state) {
        violation("a queue that waits for itself");
        return;
    }
    served(queue->state, ticket(queue->state), context, work);
}

struct item {
    OS_dispatch_queue *queue;
    unsigned long ticket;
    long delay;
    void *context;
    void (*work)(void *);
};

static void *worker(void *pointer) {
    struct item *item = pointer;
    if (item->delay) {
        usleep(item->delay);
        item->ticket = ticket(item->queue->state);
    }
    served(item->queue->state, item->ticket, item->context, item->work);
    objc_release(item->queue);
    free(item);
    return NULL;
}

static void later(OS_dispatch_queue *queue, long delay, void *context, void (*work)(void *)) {
    struct item *item = malloc(sizeof *item);
    *item = (struct item){objc_retain(queue), 0, delay, context, work};
    if (!delay) item->ticket = ticket(queue->state);
    pthread_t thread;
    if (pthread_create(&thread, NULL, worker, item)) abort();
    pthread_detach(thread);
}

// -- Foundation ---------------------------------------------------------------------------------------------------------------

@interface NSString : NSObject
{
    @public
    char *bytes;
}
+ (id)stringWithUTF8String:(const char *)text;
- (const char *)UTF8String;
@end
@implementation NSString
+ (id)stringWithUTF8String:(const char *)text {
    NSString *made = [[self alloc] init];
    made->bytes = strdup(text);
    return objc_autorelease(made);
}
- (const char *)UTF8String { return bytes; }
- (void)end { free(bytes); }
@end
#define S(text) ((NSString *)[NSString stringWithUTF8String:(text)])
#define C(object) ((object) ? ((NSString *)(object))->bytes : "")

@interface NSURL : NSObject
{
    @public
    BOOL directory;
}
+ (id)fileURLWithPath:(NSString *)path isDirectory:(BOOL)isDirectory;
@end
@implementation NSURL
+ (id)fileURLWithPath:(NSString *)path isDirectory:(BOOL)isDirectory {
    NSURL *made = [[self alloc] init];
    put(made, 0, needed(path, "a path"));
    made->directory = isDirectory;
    return objc_autorelease(made);
}
@end
#define PATH(url) C(((NSObject *)(url))->slots[0])

@interface NSArray : NSObject
{
    @public
    NSUInteger size;
    id *items;
}
+ (id)arrayWithObjects:(const id *)objects count:(NSUInteger)count;
- (NSUInteger)count;
- (id)objectAtIndex:(NSUInteger)index;
@end
@implementation NSArray
+ (id)arrayWithObjects:(const id *)objects count:(NSUInteger)count {
    NSArray *made = [[self alloc] init];
    made->size = count;
    made->items = calloc(count + 1, sizeof(id));
    for (NSUInteger i = 0; i < count; i++) made->items[i] = objc_retain(needed(objects[i], "an item of an array"));
    return objc_autorelease(made);
}
- (NSUInteger)count { return size; }
- (id)objectAtIndex:(NSUInteger)index {
    if (index >= size) violation("item %lu of %lu", index, size);
    return index < size ? items[index] : nil;
}
- (void)end {
    for (NSUInteger i = 0; i < size; i++) objc_release(items[i]);
    free(items);
}
@end

@interface NSError : NSObject
{
    @public
    NSInteger number;
}
- (NSString *)domain;
- (NSInteger)code;
- (NSString *)localizedDescription;
- (NSString *)localizedFailureReason;
@end
@implementation NSError
- (NSString *)domain { return slots[0]; }
- (NSInteger)code { return number; }
- (NSString *)localizedDescription { return slots[1]; }
- (NSString *)localizedFailureReason { return slots[2]; }
@end

static NSError *make_error(const char *domain, NSInteger code, const char *text, const char *reason) {
    NSError *made = [[NSError alloc] init];
    made->number = code;
    put(made, 0, S(domain));
    put(made, 1, S(text));
    if (reason) put(made, 2, S(reason));
    return objc_autorelease(made);
}
static NSError *vz_error(NSInteger code, const char *text, const char *reason) {
    return make_error("VZErrorDomain", code, text, reason);
}
static BOOL fail(NSError **error, NSError *with) {
    if (error) *error = with;
    return NO;
}
static id fail_init(NSObject *self, NSError **error, NSError *with) {
    fail(error, with);
    objc_release(self);
    return nil;
}

@interface NSData : NSObject
{
    @public
    NSUInteger size;
    void *content;
}
+ (id)dataWithBytes:(const void *)bytes length:(NSUInteger)length;
- (const void *)bytes;
- (NSUInteger)length;
@end
@implementation NSData
+ (id)dataWithBytes:(const void *)bytes length:(NSUInteger)length {
    NSData *made = [[self alloc] init];
    made->size = length;
    made->content = malloc(length + 1);
    memcpy(made->content, bytes, length);
    return objc_autorelease(made);
}
- (const void *)bytes { return content; }
- (NSUInteger)length { return size; }
- (void)end { free(content); }
@end

@interface NSFileHandle : NSObject
{
    @public
    int fd;
    BOOL owned;
}
- (id)initWithFileDescriptor:(int)descriptor closeOnDealloc:(BOOL)close;
@end
@implementation NSFileHandle
- (id)initWithFileDescriptor:(int)descriptor closeOnDealloc:(BOOL)close {
    if (fcntl(descriptor, F_GETFD) < 0) violation("descriptor %d is not open", descriptor);
    fd = descriptor;
    owned = close;
    return self;
}
- (void)end {
    if (owned) close(fd);
}
@end

// -- the configuration ----------------------------------------------------------------------------------------------------------

#define CLASS(name, super) \
    @interface name : super \
    @end \
    @implementation name \
    @end

CLASS(VZBootLoader, NSObject)
CLASS(VZPlatformConfiguration, NSObject)
CLASS(VZStorageDeviceAttachment, NSObject)
CLASS(VZStorageDeviceConfiguration, NSObject)
CLASS(VZNetworkDeviceAttachment, NSObject)
CLASS(VZSerialPortAttachment, NSObject)
CLASS(VZEntropyDeviceConfiguration, NSObject)
CLASS(VZMemoryBalloonDeviceConfiguration, NSObject)
CLASS(VZSocketDeviceConfiguration, NSObject)
CLASS(VZDirectoryShare, NSObject)
CLASS(VZDirectorySharingDeviceConfiguration, NSObject)
CLASS(VZMemoryBalloonDevice, NSObject)
CLASS(VZSocketDevice, NSObject)
CLASS(VZNATNetworkDeviceAttachment, VZNetworkDeviceAttachment)
CLASS(VZVirtioEntropyDeviceConfiguration, VZEntropyDeviceConfiguration)
CLASS(VZVirtioTraditionalMemoryBalloonDeviceConfiguration, VZMemoryBalloonDeviceConfiguration)
CLASS(VZVirtioSocketDeviceConfiguration, VZSocketDeviceConfiguration)

@interface VZLinuxBootLoader : VZBootLoader
@end
@implementation VZLinuxBootLoader
- (id)initWithKernelURL:(NSURL *)url {
    put(self, 0, needed(url, "kernelURL"));
    return self;
}
- (void)setCommandLine:(NSString *)text { put(self, 1, needed(text, "commandLine")); }
- (void)setInitialRamdiskURL:(NSURL *)url { put(self, 2, url); }
@end

@interface VZEFIVariableStore : NSObject
@end
@implementation VZEFIVariableStore
- (id)initWithURL:(NSURL *)url {
    put(self, 0, needed(url, "URL"));
    return self;
}
- (id)initCreatingVariableStoreAtURL:(NSURL *)url options:(NSUInteger)options error:(NSError **)error {
    put(self, 0, needed(url, "URL"));
    int fd = open(PATH(url), O_CREAT | O_RDWR | (options & 1 ? 0 : O_EXCL), 0644);
    if (fd < 0) return fail_init(self, error, make_error("NSPOSIXErrorDomain", errno, strerror(errno), NULL));
    close(fd);
    return self;
}
@end

@interface VZEFIBootLoader : VZBootLoader
@end
@implementation VZEFIBootLoader
- (void)setVariableStore:(VZEFIVariableStore *)store { put(self, 0, store); }
@end

@interface VZGenericMachineIdentifier : NSObject
@end
@implementation VZGenericMachineIdentifier
- (id)init {
    static int number;
    char text[32];
    snprintf(text, sizeof text, "machine-%d", __atomic_add_fetch(&number, 1, __ATOMIC_SEQ_CST));
    put(self, 0, [NSData dataWithBytes:text length:strlen(text)]);
    return self;
}
- (id)initWithDataRepresentation:(NSData *)data {
    if (data->size < 8 || memcmp(data->content, "machine-", 8)) {
        objc_release(self);
        return nil;
    }
    put(self, 0, data);
    return self;
}
- (NSData *)dataRepresentation { return slots[0]; }
@end

@interface VZGenericPlatformConfiguration : VZPlatformConfiguration
{
    @public
    BOOL nested;
}
@end
@implementation VZGenericPlatformConfiguration
+ (BOOL)isNestedVirtualizationSupported { return *setting("nested") != 0; }
- (VZGenericMachineIdentifier *)machineIdentifier { return slots[0]; }
- (void)setMachineIdentifier:(VZGenericMachineIdentifier *)identifier { put(self, 0, needed(identifier, "machineIdentifier")); }
- (void)setNestedVirtualizationEnabled:(BOOL)enabled { nested = enabled; }
@end

@interface VZDiskImageStorageDeviceAttachment : VZStorageDeviceAttachment
{
    @public
    BOOL read_only;
    NSInteger caching, synchronization;
}
@end
@implementation VZDiskImageStorageDeviceAttachment
- (id)initWithURL:(NSURL *)url
              readOnly:(BOOL)readOnly
           cachingMode:(NSInteger)cachingMode
    synchronizationMode:(NSInteger)synchronizationMode
                 error:(NSError **)error {
    put(self, 0, needed(url, "URL"));
    read_only = readOnly;
    caching = cachingMode;
    synchronization = synchronizationMode;
    if (cachingMode < 0 || cachingMode > 2 || synchronizationMode < 1 || synchronizationMode > 3)
        violation("modes %ld and %ld of a disk", cachingMode, synchronizationMode);
    int fd = open(PATH(url), readOnly ? O_RDONLY : O_RDWR); // a missing image is reported as ENOTSUP by Apple's
    if (fd < 0) return fail_init(self, error, make_error("NSPOSIXErrorDomain", 45, "Operation not supported", NULL));
    char head[4] = "";
    ssize_t got = pread(fd, head, 4, 0);
    close(fd);
    if (got == 4 && !memcmp(head, "QFI\xfb", 4)) return fail_init(self, error, vz_error(5, "Invalid disk image.", "Not raw."));
    return self;
}
@end

@interface VZVirtioBlockDeviceConfiguration : VZStorageDeviceConfiguration
@end
@implementation VZVirtioBlockDeviceConfiguration
- (id)initWithAttachment:(VZStorageDeviceAttachment *)attachment {
    put(self, 0, needed(attachment, "attachment"));
    return self;
}
+ (BOOL)validateBlockDeviceIdentifier:(NSString *)name error:(NSError **)error {
    if (strlen(C(name)) <= 20) return YES;
    return fail(error, vz_error(2, "The identifier is longer than 20 bytes.", NULL));
}
- (void)setBlockDeviceIdentifier:(NSString *)name {
    if (strlen(C(name)) > 20) violation("an identifier that is too long");
    put(self, 1, name);
}
@end

@interface VZNVMExpressControllerDeviceConfiguration : VZStorageDeviceConfiguration
@end
@implementation VZNVMExpressControllerDeviceConfiguration
- (id)initWithAttachment:(VZStorageDeviceAttachment *)attachment {
    put(self, 0, needed(attachment, "attachment"));
    return self;
}
@end

@interface VZUSBMassStorageDeviceConfiguration : VZStorageDeviceConfiguration
@end
@implementation VZUSBMassStorageDeviceConfiguration
- (id)initWithAttachment:(VZStorageDeviceAttachment *)attachment {
    put(self, 0, needed(attachment, "attachment"));
    return self;
}
@end

@interface VZMACAddress : NSObject
@end
@implementation VZMACAddress
- (id)initWithString:(NSString *)string {
    put(self, 0, needed(string, "string"));
    return self;
}
+ (id)randomLocallyAdministeredAddress {
    static unsigned number;
    char text[18];
    snprintf(text, sizeof text, "5a:94:ef:00:00:%02x", __atomic_add_fetch(&number, 1, __ATOMIC_SEQ_CST) & 0xff);
    VZMACAddress *made = [[self alloc] init];
    put(made, 0, S(text));
    return objc_autorelease(made);
}
- (NSString *)string { return slots[0]; }
@end

@interface VZFileHandleNetworkDeviceAttachment : VZNetworkDeviceAttachment
{
    @public
    NSInteger mtu;
}
@end
@implementation VZFileHandleNetworkDeviceAttachment
- (id)initWithFileHandle:(NSFileHandle *)handle {
    int kind = 0;
    socklen_t size = sizeof kind;
    if (getsockopt(handle->fd, SOL_SOCKET, SO_TYPE, &kind, &size) || kind != SOCK_DGRAM) violation("no datagram socket");
    put(self, 0, handle);
    mtu = 1500;
    return self;
}
- (void)setMaximumTransmissionUnit:(NSInteger)bytes { mtu = bytes; }
@end

@interface VZNetworkDeviceConfiguration : NSObject
@end
@implementation VZNetworkDeviceConfiguration
- (void)setMACAddress:(VZMACAddress *)address { put(self, 0, needed(address, "MACAddress")); }
- (void)setAttachment:(VZNetworkDeviceAttachment *)attachment { put(self, 1, attachment); }
@end
CLASS(VZVirtioNetworkDeviceConfiguration, VZNetworkDeviceConfiguration)

@interface VZFileHandleSerialPortAttachment : VZSerialPortAttachment
@end
@implementation VZFileHandleSerialPortAttachment
- (id)initWithFileHandleForReading:(NSFileHandle *)reading fileHandleForWriting:(NSFileHandle *)writing {
    put(self, 0, reading);
    put(self, 1, writing);
    return self;
}
@end

@interface VZSerialPortConfiguration : NSObject
@end
@implementation VZSerialPortConfiguration
- (void)setAttachment:(VZSerialPortAttachment *)attachment { put(self, 0, attachment); }
@end
CLASS(VZVirtioConsoleDeviceSerialPortConfiguration, VZSerialPortConfiguration)

@interface VZSharedDirectory : NSObject
{
    @public
    BOOL read_only;
}
@end
@implementation VZSharedDirectory
- (id)initWithURL:(NSURL *)url readOnly:(BOOL)readOnly {
    put(self, 0, needed(url, "URL"));
    if (!url->directory) violation("a shared directory whose URL is none");
    read_only = readOnly;
    return self;
}
@end

@interface VZSingleDirectoryShare : VZDirectoryShare
@end
@implementation VZSingleDirectoryShare
- (id)initWithDirectory:(VZSharedDirectory *)directory {
    put(self, 0, needed(directory, "directory"));
    return self;
}
@end

@interface VZLinuxRosettaDirectoryShare : VZDirectoryShare
@end
@implementation VZLinuxRosettaDirectoryShare
+ (NSInteger)availability { return *setting("rosetta"); }
- (id)initWithError:(NSError **)error {
    if (*setting("rosetta") != 2) return fail_init(self, error, vz_error(10, "Rosetta is not installed.", NULL));
    return self;
}
static void installed(void *block) {
    NSError *error = *setting("rosetta_install_error") ? vz_error(9, "The user said no.", NULL) : nil;
    if (!error) *setting("rosetta") = 2;
    ((void (*)(void *, id))((struct block *)block)->invoke)(block, error);
    released(block);
}
+ (void)installRosettaWithCompletionHandler:(void (^)(NSError *))handler {
    OS_dispatch_queue *queue = dispatch_queue_create("rosetta", nil);
    later(queue, *setting("delay_us"), copied((void *)handler, "v16@?0@8"), installed);
    objc_release(queue);
}
@end

@interface VZVirtioFileSystemDeviceConfiguration : VZDirectorySharingDeviceConfiguration
@end
@implementation VZVirtioFileSystemDeviceConfiguration
+ (BOOL)validateTag:(NSString *)tag error:(NSError **)error {
    if (*C(tag) && strlen(C(tag)) <= 36) return YES;
    return fail(error, vz_error(2, "The tag is empty or longer than 36 bytes.", NULL));
}
- (id)initWithTag:(NSString *)tag {
    if (!*C(tag) || strlen(C(tag)) > 36) violation("an invalid tag raises an exception");
    put(self, 0, tag);
    return self;
}
- (void)setShare:(VZDirectoryShare *)share { put(self, 1, share); }
@end

enum { BOOT, PLATFORM, STORAGE, NETWORKS, SERIAL, ENTROPY, BALLOON, SOCKETS, SHARES };

@interface VZVirtualMachineConfiguration : NSObject
{
    @public
    NSUInteger cpus;
    uint64_t memory;
}
@end
@implementation VZVirtualMachineConfiguration
- (void)setBootLoader:(VZBootLoader *)loader { put(self, BOOT, loader); }
- (void)setCPUCount:(NSUInteger)count { cpus = count; }
- (void)setMemorySize:(uint64_t)bytes { memory = bytes; }
- (void)setPlatform:(VZPlatformConfiguration *)platform { put(self, PLATFORM, needed(platform, "platform")); }
- (void)setStorageDevices:(NSArray *)devices { put(self, STORAGE, needed(devices, "storageDevices")); }
- (void)setNetworkDevices:(NSArray *)devices { put(self, NETWORKS, needed(devices, "networkDevices")); }
- (void)setSerialPorts:(NSArray *)ports { put(self, SERIAL, needed(ports, "serialPorts")); }
- (void)setEntropyDevices:(NSArray *)devices { put(self, ENTROPY, needed(devices, "entropyDevices")); }
- (void)setMemoryBalloonDevices:(NSArray *)devices { put(self, BALLOON, needed(devices, "memoryBalloonDevices")); }
- (void)setSocketDevices:(NSArray *)devices { put(self, SOCKETS, needed(devices, "socketDevices")); }
- (void)setDirectorySharingDevices:(NSArray *)devices { put(self, SHARES, needed(devices, "directorySharingDevices")); }
+ (uint64_t)minimumAllowedMemorySize { return 4 << 20; }
+ (uint64_t)maximumAllowedMemorySize { return 64ull << 30; }
+ (NSUInteger)minimumAllowedCPUCount { return 1; }
+ (NSUInteger)maximumAllowedCPUCount { return 8; }
- (BOOL)validateWithError:(NSError **)error {
    const char *reason = NULL;
    if (!*setting("entitled"))
        reason = "The process doesn\xe2\x80\x99t have the \xe2\x80\x9c" "com.apple.security.virtualization\xe2\x80\x9d entitlement.";
    else if (!slots[BOOT]) reason = "There is no boot loader.";
    else if (cpus < 1 || cpus > 8) reason = "The CPU count is invalid.";
    else if (memory < 4 << 20 || memory % (1 << 20)) reason = "The memory size is invalid.";
    if (!reason) return YES;
    char text[256];
    snprintf(text, sizeof text, "Invalid virtual machine configuration. %s", reason);
    return fail(error, vz_error(2, text, reason));
}
- (BOOL)validateSaveRestoreSupportWithError:(NSError **)error {
    return *setting("savable") || fail(error, vz_error(10, "A device cannot be saved.", NULL));
}
@end

// What the framework was told, as text.

static char *described(VZVirtualMachineConfiguration *of) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    fprintf(out, "cpus %lu memory %llu\n", of->cpus, (unsigned long long)of->memory);
    NSObject *boot = of->slots[BOOT];
    if (!strcmp(name_of(boot), "VZLinuxBootLoader"))
        fprintf(out, "linux %s initrd %s: %s\n", PATH(boot->slots[0]), boot->slots[2] ? PATH(boot->slots[2]) : "-", C(boot->slots[1]));
    else fprintf(out, "efi %s\n", PATH(((NSObject *)boot->slots[0])->slots[0]));
    if (of->slots[PLATFORM]) {
        VZGenericPlatformConfiguration *platform = of->slots[PLATFORM];
        NSData *data = platform->slots[0] ? ((NSObject *)platform->slots[0])->slots[0] : nil;
        fprintf(out, "platform %.*s nested %d\n", data ? (int)data->size : 0, data ? (char *)data->content : "", platform->nested);
    }
    for (int slot = STORAGE; slot <= SHARES; slot++) {
        NSArray *devices = of->slots[slot];
        for (NSUInteger i = 0; devices && i < devices->size; i++) {
            NSObject *device = devices->items[i];
            fprintf(out, "%s", name_of(device));
            if (slot == STORAGE) {
                VZDiskImageStorageDeviceAttachment *image = device->slots[0];
                fprintf(out, " %s read-only %d caching %ld sync %ld name %s", PATH(image->slots[0]), image->read_only, image->caching,
                        image->synchronization, C(device->slots[1]));
            } else if (slot == NETWORKS) {
                VZFileHandleNetworkDeviceAttachment *to = device->slots[1];
                fprintf(out, " %s %s", C(((NSObject *)device->slots[0])->slots[0]), name_of(to));
                if (!strcmp(name_of(to), "VZFileHandleNetworkDeviceAttachment")) fprintf(out, " mtu %ld", to->mtu);
            } else if (slot == SHARES) {
                NSObject *share = device->slots[1];
                fprintf(out, " %s %s", C(device->slots[0]), name_of(share));
                if (share->slots[0]) {
                    VZSharedDirectory *directory = share->slots[0];
                    fprintf(out, " %s read-only %d", PATH(directory->slots[0]), directory->read_only);
                }
            }
            fprintf(out, "\n");
        }
    }
    fclose(out);
    return text;
}

// -- the machine ------------------------------------------------------------------------------------------------------------------

enum { STOPPED, RUNNING, PAUSED, ERROR, STARTING, PAUSING, RESUMING, STOPPING, SAVING, RESTORING };

@class VZVirtualMachine, VZVirtioSocketDevice, VZVirtioSocketListener, VZVirtioSocketConnection;

@protocol VZVirtualMachineDelegate
- (void)guestDidStopVirtualMachine:(VZVirtualMachine *)machine;
- (void)virtualMachine:(VZVirtualMachine *)machine didStopWithError:(NSError *)error;
- (void)virtualMachine:(VZVirtualMachine *)machine
                         networkDevice:(id)device
    attachmentWasDisconnectedWithError:(NSError *)error;
@end
@protocol VZVirtioSocketListenerDelegate
- (BOOL)listener:(VZVirtioSocketListener *)listener
    shouldAcceptNewConnection:(VZVirtioSocketConnection *)connection
             fromSocketDevice:(VZVirtioSocketDevice *)device;
@end

static void on_queue(struct queue *queue, const char *what) {
    if (current != queue) violation("%s off the machine's queue", what);
}

@interface VZVirtioTraditionalMemoryBalloonDevice : VZMemoryBalloonDevice
{
    @public
    struct queue *queue;
    uint64_t target, most;
}
@end
@implementation VZVirtioTraditionalMemoryBalloonDevice
- (uint64_t)targetVirtualMachineMemorySize {
    on_queue(queue, "targetVirtualMachineMemorySize");
    return target;
}
- (void)setTargetVirtualMachineMemorySize:(uint64_t)bytes {
    on_queue(queue, "setTargetVirtualMachineMemorySize:");
    if (bytes % (1 << 20) || bytes > most) violation("a balloon for %llu bytes", (unsigned long long)bytes);
    target = bytes;
}
@end

@interface VZVirtioSocketConnection : NSObject
{
    @public
    int fd;
    uint32_t source, destination;
}
@end
@implementation VZVirtioSocketConnection
- (int)fileDescriptor { return fd; }
- (uint32_t)sourcePort { return source; }
- (uint32_t)destinationPort { return destination; }
- (void)close {
    if (fd >= 0) close(fd);
    fd = -1;
}
- (void)end { [self close]; }
@end

@interface VZVirtioSocketListener : NSObject
{
    @public
    id delegate; // not owned
}
@end
@implementation VZVirtioSocketListener
- (void)setDelegate:(id<VZVirtioSocketListenerDelegate>)to { delegate = to; }
@end

enum { PORTS = 64 };
static int guest_ends[PORTS]; // the guest's ends of the host's connections, by order

@interface VZVirtioSocketDevice : VZSocketDevice
{
    @public
    OS_dispatch_queue *queue; // not owned: the machine's
    VZVirtioSocketListener *listeners[PORTS];
    uint32_t ports[PORTS];
}
@end

struct dial {
    VZVirtioSocketDevice *device;
    uint32_t port;
    struct block *block;
};

static void dialled(void *pointer) {
    struct dial *dial = pointer;
    VZVirtioSocketConnection *made = nil;
    NSError *error = nil;
    int ends[2];
    if (dial->port == 9) error = make_error("NSPOSIXErrorDomain", 54, "Connection reset by peer", NULL); // nobody listens
    else if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) abort();
    else {
        made = objc_autorelease([[VZVirtioSocketConnection alloc] init]);
        made->fd = ends[0];
        made->destination = dial->port;
        guest_ends[dial->port % PORTS] = ends[1];
    }
    ((void (*)(void *, id, id))dial->block->invoke)(dial->block, made, error);
    released(dial->block);
    objc_release(dial->device);
    free(dial);
}

@implementation VZVirtioSocketDevice
- (void)setSocketListener:(VZVirtioSocketListener *)listener forPort:(uint32_t)port {
    on_queue(queue->state, "setSocketListener:forPort:");
    int slot = port % PORTS;
    objc_retain(needed(listener, "listener"));
    objc_release(listeners[slot]);
    listeners[slot] = listener;
    ports[slot] = port;
}
- (void)removeSocketListenerForPort:(uint32_t)port {
    on_queue(queue->state, "removeSocketListenerForPort:");
    int slot = port % PORTS;
    if (ports[slot] != port) return;
    objc_release(listeners[slot]);
    listeners[slot] = nil;
}
- (void)connectToPort:(uint32_t)port completionHandler:(void (^)(VZVirtioSocketConnection *, NSError *))handler {
    on_queue(queue->state, "connectToPort:completionHandler:");
    if (port == 8) return; // a guest that never answers
    struct dial *dial = malloc(sizeof *dial);
    *dial = (struct dial){objc_retain(self), port, copied((void *)handler, "v24@?0@8@16")};
    later(queue, *setting("delay_us"), dial, dialled);
}
- (void)end {
    for (int i = 0; i < PORTS; i++) objc_release(listeners[i]);
}
@end

enum { M_CONFIGURATION, M_QUEUE, M_SOCKETS, M_BALLOONS };

@interface VZVirtualMachine : NSObject
{
    @public
    NSInteger now;
    id delegate; // not owned
    BOOL power_button;
}
- (NSInteger)state;
@end

static VZVirtualMachine *newest;

struct change {
    VZVirtualMachine *machine;
    struct block *block;
    NSInteger to, back;
    NSError *error;
    int guest; // 1: the guest boots
};

struct ends { int in, out; };

static void *guest(void *pointer) { // says where it is, and then says everything twice
    struct ends ends = *(struct ends *)pointer;
    free(pointer);
    char line[256];
    ssize_t got;
    if (write(ends.out, "booted\n", 7) == 7)
        while ((got = read(ends.in, line, sizeof line)) > 0)
            if (write(ends.out, line, got) != got || write(ends.out, line, got) != got) break;
    close(ends.in);
    close(ends.out);
    return NULL;
}

static void shut_down(void *machine) {
    VZVirtualMachine *it = machine;
    if (it->now == RUNNING) {
        it->now = STOPPED;
        [it->delegate guestDidStopVirtualMachine:it];
    }
    objc_release(it);
}

// No guest runs here. A kernel whose third instruction is HVC #0 is taken for one that asks PSCI to be turned off.
static BOOL turns_itself_off(VZVirtualMachine *machine) {
    NSObject *loader = ((NSObject *)machine->slots[M_CONFIGURATION])->slots[BOOT];
    uint32_t word = 0;
    int fd = open(PATH(loader->slots[0]), O_RDONLY);
    if (fd < 0) return NO;
    BOOL whole = pread(fd, &word, sizeof word, 0x48) == sizeof word;
    close(fd);
    return whole && word == 0xd4000002;
}

static void boot(VZVirtualMachine *machine) {
    NSObject *serial = ((NSArray *)((NSObject *)machine->slots[M_CONFIGURATION])->slots[SERIAL])->items[0];
    NSObject *attachment = serial->slots[0];
    struct ends *ends = malloc(sizeof *ends);
    *ends = (struct ends){dup(((NSFileHandle *)attachment->slots[0])->fd), dup(((NSFileHandle *)attachment->slots[1])->fd)};
    pthread_t thread;
    if (pthread_create(&thread, NULL, guest, ends)) abort();
    pthread_detach(thread);
}

static void changed(void *pointer) {
    struct change *change = pointer;
    VZVirtualMachine *machine = change->machine;
    machine->now = change->error ? change->back : change->to;
    if (!change->error && change->guest) boot(machine);
    ((void (*)(void *, id))change->block->invoke)(change->block, change->error);
    released(change->block);
    if (!change->error && change->guest && turns_itself_off(machine)) later(machine->slots[M_QUEUE], 0, objc_retain(machine), shut_down);
    objc_release(change->error);
    objc_release(machine);
    free(change);
}

@implementation VZVirtualMachine
+ (BOOL)isSupported { return *setting("supported") != 0; }
- (id)initWithConfiguration:(VZVirtualMachineConfiguration *)configuration queue:(OS_dispatch_queue *)queue {
    if (!configuration || ![configuration validateWithError:NULL]) violation("a machine of an invalid configuration");
    put(self, M_CONFIGURATION, configuration);
    put(self, M_QUEUE, needed(queue, "queue"));
    NSArray *sockets = configuration->slots[SOCKETS], *balloons = configuration->slots[BALLOON];
    if (sockets) {
        VZVirtioSocketDevice *device = [[VZVirtioSocketDevice alloc] init];
        device->queue = queue;
        put(self, M_SOCKETS, device);
        objc_release(device);
    }
    if (balloons) {
        VZVirtioTraditionalMemoryBalloonDevice *device = [[VZVirtioTraditionalMemoryBalloonDevice alloc] init];
        device->queue = queue->state;
        device->target = device->most = configuration->memory;
        put(self, M_BALLOONS, device);
        objc_release(device);
    }
    newest = self;
    return self;
}
- (struct queue *)mine { return ((OS_dispatch_queue *)slots[M_QUEUE])->state; }
- (void)setDelegate:(id<VZVirtualMachineDelegate>)to {
    on_queue([self mine], "setDelegate:");
    delegate = to;
}
- (NSInteger)state {
    on_queue([self mine], "state");
    return now;
}
- (BOOL)canStart { return [self state] == STOPPED || now == ERROR; }
- (BOOL)canStop { return [self state] == RUNNING || now == PAUSED; }
- (BOOL)canPause { return [self state] == RUNNING; }
- (BOOL)canResume { return [self state] == PAUSED; }
- (BOOL)canRequestStop { return [self state] == RUNNING && !*setting("refuse_request"); }
- (NSArray *)socketDevices { return [self only:M_SOCKETS]; }
- (NSArray *)memoryBalloonDevices { return [self only:M_BALLOONS]; }
- (NSArray *)only:(int)slot {
    on_queue([self mine], "a list of devices");
    return [NSArray arrayWithObjects:&slots[slot] count:slots[slot] ? 1 : 0];
}
- (void)from:(NSInteger)first or:(NSInteger)second over:(NSInteger)during to:(NSInteger)after error:(NSError *)error then:(void *)handler {
    on_queue([self mine], "a change of state");
    struct change *change = malloc(sizeof *change);
    NSInteger back = error && after == RUNNING ? ERROR : now;
    *change = (struct change){objc_retain(self), copied(handler, "v16@?0@8"), after, back, nil, during == STARTING};
    if (now != first && now != second) {
        error = vz_error(4, "Invalid virtual machine state transition.", NULL);
        change->back = now;
    } else now = during;
    change->error = objc_retain(error);
    later(slots[M_QUEUE], *setting("delay_us"), change, changed);
}
- (void)startWithCompletionHandler:(void (^)(NSError *))handler {
    NSError *error = *setting("start_error") ? vz_error(1, "The virtual machine failed to start.", "Internal error.") : nil;
    [self from:STOPPED or:ERROR over:STARTING to:RUNNING error:error then:(void *)handler];
}
- (void)pauseWithCompletionHandler:(void (^)(NSError *))handler {
    [self from:RUNNING or:RUNNING over:PAUSING to:PAUSED error:nil then:(void *)handler];
}
- (void)resumeWithCompletionHandler:(void (^)(NSError *))handler {
    [self from:PAUSED or:PAUSED over:RESUMING to:RUNNING error:nil then:(void *)handler];
}
- (void)stopWithCompletionHandler:(void (^)(NSError *))handler {
    NSError *error = *setting("stop_error") ? vz_error(1, "It does not stop.", NULL) : nil;
    [self from:RUNNING or:PAUSED over:STOPPING to:STOPPED error:error then:(void *)handler];
}
- (BOOL)requestStopWithError:(NSError **)error {
    on_queue([self mine], "requestStopWithError:");
    if (now != RUNNING) return fail(error, vz_error(3, "Invalid virtual machine state.", NULL));
    power_button = YES;
    return YES;
}
- (void)saveMachineStateToURL:(NSURL *)url completionHandler:(void (^)(NSError *))handler {
    NSError *error = nil;
    if (now == PAUSED) {
        NSData *data = [((VZGenericPlatformConfiguration *)((NSObject *)slots[M_CONFIGURATION])->slots[PLATFORM])->slots[0] dataRepresentation];
        int fd = open(PATH(url), O_CREAT | O_WRONLY | O_TRUNC, 0644);
        if (fd < 0 || write(fd, data->content, data->size) != (ssize_t)data->size) error = vz_error(11, "Saving failed.", strerror(errno));
        if (fd >= 0) close(fd);
    }
    [self from:PAUSED or:PAUSED over:SAVING to:PAUSED error:error then:(void *)handler];
}
- (void)restoreMachineStateFromURL:(NSURL *)url completionHandler:(void (^)(NSError *))handler {
    NSData *data = [((VZGenericPlatformConfiguration *)((NSObject *)slots[M_CONFIGURATION])->slots[PLATFORM])->slots[0] dataRepresentation];
    char saved[64] = "";
    int fd = open(PATH(url), O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, saved, sizeof saved);
    if (fd >= 0) close(fd);
    BOOL same = got == (ssize_t)data->size && !memcmp(saved, data->content, got);
    NSError *error = same ? nil : vz_error(12, "Restoring failed.", "Invalid argument");
    [self from:STOPPED or:STOPPED over:RESTORING to:PAUSED error:error then:(void *)handler];
}
- (void)end {
    if (delegate) violation("a machine that goes while it has a delegate");
    if (slots[M_QUEUE]) on_queue([self mine], "the end of a machine");
    else violation("a machine that was never initialised");
    if (newest == self) newest = nil;
}
@end

// -- what the guest does ------------------------------------------------------------------------------------------------------------

EXPORT char *sim_configuration(void) { return newest ? described(newest->slots[M_CONFIGURATION]) : NULL; }
EXPORT int sim_power_button(void) { return newest && newest->power_button; }
EXPORT int sim_guest_end(uint32_t port) { return guest_ends[port % PORTS]; }

static void broke(void *machine) {
    VZVirtualMachine *it = machine;
    it->now = ERROR;
    [it->delegate virtualMachine:it didStopWithError:vz_error(1, "Internal Virtualization error.", NULL)];
    objc_release(it);
}
static void unplugged(void *machine) {
    VZVirtualMachine *it = machine;
    id card = ((NSArray *)((NSObject *)it->slots[M_CONFIGURATION])->slots[NETWORKS])->items[0];
    [it->delegate virtualMachine:it networkDevice:card attachmentWasDisconnectedWithError:vz_error(7, "Network error.", NULL)];
    objc_release(it);
}
EXPORT void sim_guest(int what) {
    later(newest->slots[M_QUEUE], 0, objc_retain(newest), what == 0 ? shut_down : what == 1 ? broke : unplugged);
}

struct knock {
    uint32_t port;
    int guest, answered;
};
static void knocked(void *pointer) {
    struct knock *knock = pointer;
    VZVirtioSocketDevice *device = newest->slots[M_SOCKETS];
    VZVirtioSocketListener *listener = device->ports[knock->port % PORTS] == knock->port ? device->listeners[knock->port % PORTS] : nil;
    knock->guest = -1;
    if (!listener || !listener->delegate) return;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) abort();
    VZVirtioSocketConnection *made = [[VZVirtioSocketConnection alloc] init];
    made->fd = ends[0];
    made->source = 1024;
    made->destination = knock->port;
    BOOL taken = [(id<VZVirtioSocketListenerDelegate>)listener->delegate listener:listener shouldAcceptNewConnection:made fromSocketDevice:device];
    objc_release(made);
    if (taken) knock->guest = ends[1];
    else close(ends[1]);
}
EXPORT int sim_guest_connect(uint32_t port) { // the guest's end, or -1 if the host refuses
    struct knock knock = {port, -1, 0};
    dispatch_sync_f(newest->slots[M_QUEUE], &knock, knocked);
    return knock.guest;
}
