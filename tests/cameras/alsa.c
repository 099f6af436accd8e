/* A sound card in user space: an ALSA plugin that captures a saw-tooth in real time.
 * pcm.NAME { type peercam  rate 48000  channels 1  format S16_LE  fault good } with fault
 *   good, mute (it never has a sample), gone (unplugged after half a second), busy, absent,
 *   opening, closing (it hangs for some seconds when it is opened or closed) */
#include <alsa/asoundlib.h>
#include <alsa/pcm_external.h>
#include <stdint.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HANGS = 4 };

struct card {
    snd_pcm_ioplug_t io;
    char fault[16];
    struct timespec start;
    int runs;
    uint8_t next;
};

static int unplugged;

static double since(const struct card *c) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec - c->start.tv_sec + (now.tv_nsec - c->start.tv_nsec) / 1e9;
}

static int run(snd_pcm_ioplug_t *io, int runs) {
    struct card *c = io->private_data;
    struct itimerspec every = {{0, runs ? 5000000 : 0}, {0, runs ? 5000000 : 0}};
    clock_gettime(CLOCK_MONOTONIC, &c->start);
    c->runs = runs;
    return timerfd_settime(io->poll_fd, 0, &every, NULL);
}
static int prepare(snd_pcm_ioplug_t *io) { return unplugged ? -ENODEV : run(io, 0); }
static int start(snd_pcm_ioplug_t *io) { return run(io, 1); }
static int stop(snd_pcm_ioplug_t *io) { return run(io, 0); }

static snd_pcm_sframes_t pointer(snd_pcm_ioplug_t *io) {
    struct card *c = io->private_data;
    if (!c->runs || !strcmp(c->fault, "mute")) return 0;
    if (!strcmp(c->fault, "gone") && since(c) > 0.5) {
        unplugged = 1;
        return -ENODEV;
    }
    int64_t at = since(c) * io->rate;
    return at > (int64_t)(io->appl_ptr + io->buffer_size) ? -EPIPE : at % (int64_t)io->buffer_size;
}

static snd_pcm_sframes_t transfer(snd_pcm_ioplug_t *io, const snd_pcm_channel_area_t *areas, snd_pcm_uframes_t offset,
                                  snd_pcm_uframes_t frames) {
    struct card *c = io->private_data;
    uint8_t *into = (uint8_t *)areas->addr + (areas->first + areas->step * offset) / 8;
    for (snd_pcm_uframes_t i = 0; i < frames * areas->step / 8; i++) into[i] = c->next++;
    return frames;
}

static int revents(snd_pcm_ioplug_t *io, struct pollfd *fds, unsigned count, unsigned short *found) {
    uint64_t times;
    (void)io, (void)count;
    *found = fds->revents & POLLIN && read(fds->fd, &times, 8) == 8 ? POLLIN : 0;
    return 0;
}

static int close_card(snd_pcm_ioplug_t *io) {
    struct card *c = io->private_data;
    /* Not where it was only asked what it can do. */
    if (!strcmp(c->fault, "closing") && c->start.tv_sec) sleep(HANGS);
    close(io->poll_fd);
    free(io->private_data);
    return 0;
}

static const snd_pcm_ioplug_callback_t calls = {
    .prepare = prepare, .start = start, .stop = stop, .pointer = pointer, .transfer = transfer, .poll_revents = revents, .close = close_card,
};

SND_PCM_PLUGIN_DEFINE_FUNC(peercam) {
    snd_config_iterator_t i, next;
    const char *fault = "good", *format = "S16_LE", *id;
    long rate = 48000, channels = 1;
    (void)root;
    snd_config_for_each(i, next, conf) {
        snd_config_t *entry = snd_config_iterator_entry(i);
        if (snd_config_get_id(entry, &id) < 0) continue;
        if (!strcmp(id, "fault")) snd_config_get_string(entry, &fault);
        if (!strcmp(id, "format")) snd_config_get_string(entry, &format);
        if (!strcmp(id, "rate")) snd_config_get_integer(entry, &rate);
        if (!strcmp(id, "channels")) snd_config_get_integer(entry, &channels);
    }
    if (!strcmp(fault, "busy")) return -EBUSY;
    if (!strcmp(fault, "absent") || unplugged) return -ENODEV;
    if (!strcmp(fault, "opening")) sleep(HANGS);
    struct card *c = calloc(1, sizeof *c);
    if (!c) return -ENOMEM;
    snprintf(c->fault, sizeof c->fault, "%s", fault);
    c->io.version = SND_PCM_IOPLUG_VERSION, c->io.name = "peercam", c->io.callback = &calls, c->io.private_data = c;
    c->io.poll_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), c->io.poll_events = POLLIN;
    int error = snd_pcm_ioplug_create(&c->io, name, stream, mode);
    if (error < 0) return error;
    unsigned access[] = {SND_PCM_ACCESS_RW_INTERLEAVED, SND_PCM_ACCESS_MMAP_INTERLEAVED}, formats[] = {snd_pcm_format_value(format)};
    snd_pcm_ioplug_set_param_list(&c->io, SND_PCM_IOPLUG_HW_ACCESS, 2, access);
    snd_pcm_ioplug_set_param_list(&c->io, SND_PCM_IOPLUG_HW_FORMAT, 1, formats);
    snd_pcm_ioplug_set_param_minmax(&c->io, SND_PCM_IOPLUG_HW_RATE, rate, rate);
    snd_pcm_ioplug_set_param_minmax(&c->io, SND_PCM_IOPLUG_HW_CHANNELS, channels, channels);
    snd_pcm_ioplug_set_param_minmax(&c->io, SND_PCM_IOPLUG_HW_PERIOD_BYTES, 1001, 64 * 1024);
    snd_pcm_ioplug_set_param_minmax(&c->io, SND_PCM_IOPLUG_HW_BUFFER_BYTES, 2002, 1024 * 1024);
    snd_pcm_ioplug_set_param_minmax(&c->io, SND_PCM_IOPLUG_HW_PERIODS, 2, 64);
    *pcmp = c->io.pcm;
    return 0;
}
SND_PCM_PLUGIN_SYMBOL(peercam);
