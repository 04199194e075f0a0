/* Counts what fastrnn_process asks of the system, for tests/test_library.py: FILE STEPS CALLS. Allocations and locks
 * are counted by functions that stand before the C library's, system calls by a filter that hands each of them to a
 * signal handler. One of each is made on purpose first, so that the counters are known to count. Prints two lines of
 * allocations, locks, system calls: of what was on purpose, and of all calls. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fastrnn.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);

static volatile long allocations, locks, calls;
static int (*next_lock)(pthread_mutex_t*);

void* malloc(size_t size) { return ++allocations, __libc_malloc(size); }
void* calloc(size_t count, size_t size) { return ++allocations, __libc_calloc(count, size); }
void* realloc(void* block, size_t size) { return ++allocations, __libc_realloc(block, size); }
void* aligned_alloc(size_t alignment, size_t size) { return ++allocations, __libc_memalign(alignment, size); }
void free(void* block) { ++allocations, __libc_free(block); }
int posix_memalign(void** block, size_t alignment, size_t size) {
  return ++allocations, *block = __libc_memalign(alignment, size), *block == NULL;
}
int pthread_mutex_lock(pthread_mutex_t* mutex) { return ++locks, next_lock ? next_lock(mutex) : 0; }

static void count_call(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)info, (void)context;
  ++calls;
}

/* From here on every system call but those that end the handler and the program, and write what was counted. */
static int trap_calls(void) {
  struct sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof rules / sizeof *rules, rules};
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = count_call, action.sa_flags = SA_SIGINFO;
  return sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void fail(const char* text) {
  fprintf(stderr, "%s\n", text);
  exit(EXIT_FAILURE);
}

int main(int count, char** arguments) {
  fastrnn_model* model;
  fastrnn_stream* stream;
  fastrnn_error error;
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  if (count != 4) fail("expected FILE STEPS CALLS");
  if (fastrnn_load(arguments[1], &model, &error)) fail(error.text);
  const int64_t steps = atoll(arguments[2]);
  if (fastrnn_stream_create(model, 1, steps, &stream, &error)) fail(error.text);
  float* x = calloc((size_t)(steps * fastrnn_model_inputs(model)), sizeof *x);
  float* y = calloc((size_t)(steps * fastrnn_model_outputs(model)), sizeof *y);
  float* state = calloc((size_t)fastrnn_state_size(stream), sizeof *state);
  const long repetitions = atol(arguments[3]);
  if (!x || !y || !state) fail("no memory");
  *(void**)&next_lock = dlsym(RTLD_NEXT, "pthread_mutex_lock");
  if (trap_calls()) fail("the system refuses a filter of system calls");

  allocations = locks = calls = 0;
  free(malloc(1));
  pthread_mutex_lock(&mutex);
  pthread_mutex_unlock(&mutex);
  syscall(SYS_getppid);
  const long planted[3] = {allocations, locks, calls};

  allocations = locks = calls = 0;
  int refused = 0;
  for (long i = 0; i < repetitions; ++i) {
    refused |= fastrnn_process(stream, x, steps, y, &error);
    fastrnn_get_state(stream, state);
    fastrnn_set_state(stream, state);
    if (i % 100 == 99) fastrnn_reset(stream);
  }
  const long counted[3] = {allocations, locks, calls};

  char text[256];
  const int length = snprintf(text, sizeof text, "%ld %ld %ld\n%ld %ld %ld\n", planted[0], planted[1], planted[2],
                              counted[0], counted[1], counted[2]);
  if (refused || write(STDOUT_FILENO, text, (size_t)length) != length) _exit(EXIT_FAILURE);
  _exit(EXIT_SUCCESS);
}
