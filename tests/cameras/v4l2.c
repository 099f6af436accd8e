/* Cameras in user space: put before a program by LD_PRELOAD, it answers for /dev/videoN as the file videoN in the folder
 * $PEERCAM_CAMERAS says. Each line of such a file is `key value`; what is not said is that of a good camera.
 *
 *   driver, card, bus      any bytes                     caps        of the node, hexadecimal
 *   open, querycap, sfmt, streamon                       the errno with which these fail
 *   fails CODE ERRNO       streamon fails so in this format; with 0 it never brings a frame
 *   format CODE            begins a format, with its     size WxH, range W W STEP H H STEP (stepwise), continuous W W H H
 *   rate N/D               of all sizes, in frames/s     rates N/D N/D N/D: intervals from, to, step
 *   fps F, first S         real rate; seconds before the first frame (negative: it never comes)
 *   gone N                 the device is unplugged after N frames
 *   silent N               after N frames of a stream no more come
 *   bytes N                a frame has so many bytes     frames PATH: a film for JPEG and H.264, each picture behind its length in
 *                          decimal and a line end
 *   endless LIST           formats, sizes, rates or controls have no end
 *   control ID TYPE MIN MAX STEP DEFAULT FLAGS NAME      menu ID INDEX NAME
 *   stride N               bytes of a line               image N   sizeimage, where the driver says something else than the truth
 *   halves                 white on the left, black on the right
 *   field N                of the picture                colours SPACE RANGE
 *   moves WxH              S_FMT sets this size whatever is asked, TRY_FMT does not say so
 *   sparm ERRNO, gparm N/D what S_PARM fails with, what G_PARM says; buffers N: no more are given
 *   reqbufs ERRNO          dqbuf N ERRNO TIMES: from frame N on DQBUF fails so often
 *   flagged N              each Nth frame is marked as damaged; skips N: N numbers are left out between frames
 *   stamps HOW             zero, real (the time of day), same, back, ahead, wrap (32 bits of microseconds, at frame 60)
 *   input STATUS           of the one input, as ENUMINPUT says it; timings ERRNO: of QUERY_DV_TIMINGS, 0 for 1280x720
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum how { TRY, SET, GET };
enum { MOST_FDS = 4096, BUFFERS = 32, ROOM = 16 << 20, LINES = 128 };

struct size { uint32_t format, type, least_w, most_w, step_w, least_h, most_h, step_h; };
struct control { struct v4l2_query_ext_ctrl is; int64_t value; };
struct item { uint32_t id, index; char name[32]; };

struct camera {
    char place[512], driver[16], card[32], bus[32], endless[16], frames[256];
    uint32_t caps, formats[LINES], width, height, format, bytes;
    int n_formats, n_sizes, n_controls, n_items, n_fails, rates_are_steps, n_rates, open, querycap, sfmt, streamon, gone, silent;
    struct { uint32_t format; int error; } fails[LINES];
    struct size sizes[LINES];
    struct v4l2_fract rates[LINES];
    struct control controls[LINES];
    struct item items[LINES];
    double fps, first;
    uint32_t stride, image, field, space, range, moves_w, moves_h, input;
    int sparm, reqbufs, most_buffers, dqbuf_from, dqbuf, dqbuf_times, flagged, skips, timings, has_timings, halves;
    char stamps[8];
    struct v4l2_fract gparm;
    int has_gparm;
    /* Of the stream. */
    int number, memory, buffers, queue[64], head, tail, sequence, streams;
    uint64_t wraps_at;
    uint8_t *mapped;
    char *film, *scene, *end;
};

static struct camera *of[MOST_FDS];

/* What is set at a node counts for all who have it open. */
static struct { uint32_t width, height, format; struct { int is_set; int64_t is; } values[LINES]; } set_at[256];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(code) do { errno = (code); return -1; } while (0)

/* Where the file for a node lies, if it is one of ours: in a buffer of this thread. */
static const char *described(const char *path) {
    static __thread char place[512];
    const char *folder = getenv("PEERCAM_CAMERAS");
    if (!folder || !path || strncmp(path, "/dev/video", 10)) return NULL;
    snprintf(place, sizeof place, "%s/%s", folder, path + 5);
    return place;
}

static uint32_t code(const char *text) {
    uint32_t found = 0;
    for (int i = 0; i < 4 && text[i]; i++) found |= (uint32_t)(uint8_t)text[i] << 8 * i;
    return found;
}

static void say(struct camera *c, char *key, char *value) {
    struct size *s = &c->sizes[c->n_sizes % LINES];
    struct control *k = &c->controls[c->n_controls % LINES];
    uint32_t format = c->n_formats ? c->formats[c->n_formats - 1] : 0;
    int at = 0;
    if (!strcmp(key, "driver")) strncpy(c->driver, value, sizeof c->driver);
    else if (!strcmp(key, "card")) memset(c->card, 0, sizeof c->card), strncpy(c->card, value, sizeof c->card);
    else if (!strcmp(key, "bus")) strncpy(c->bus, value, sizeof c->bus);
    else if (!strcmp(key, "endless")) strncpy(c->endless, value, sizeof c->endless - 1);
    else if (!strcmp(key, "frames")) strncpy(c->frames, value, sizeof c->frames - 1);
    else if (!strcmp(key, "caps")) c->caps = strtoul(value, NULL, 16);
    else if (!strcmp(key, "open")) c->open = atoi(value);
    else if (!strcmp(key, "querycap")) c->querycap = atoi(value);
    else if (!strcmp(key, "sfmt")) c->sfmt = atoi(value);
    else if (!strcmp(key, "streamon")) c->streamon = atoi(value);
    else if (!strcmp(key, "fails") && strlen(value) > 5 && c->n_fails < LINES) {
        c->fails[c->n_fails].format = code(value), c->fails[c->n_fails++].error = atoi(value + 5);
    } else if (!strcmp(key, "gone")) c->gone = atoi(value);
    else if (!strcmp(key, "silent")) c->silent = atoi(value);
    else if (!strcmp(key, "bytes")) c->bytes = strtoul(value, NULL, 10);
    else if (!strcmp(key, "fps")) c->fps = atof(value);
    else if (!strcmp(key, "first")) c->first = atof(value);
    else if (!strcmp(key, "halves")) c->halves = 1;
    else if (!strcmp(key, "stride")) c->stride = atoi(value);
    else if (!strcmp(key, "image")) c->image = strtoul(value, NULL, 10) + 1;
    else if (!strcmp(key, "field")) c->field = atoi(value);
    else if (!strcmp(key, "colours")) sscanf(value, "%u %u", &c->space, &c->range);
    else if (!strcmp(key, "moves")) sscanf(value, "%ux%u", &c->moves_w, &c->moves_h);
    else if (!strcmp(key, "sparm")) c->sparm = atoi(value);
    else if (!strcmp(key, "gparm")) c->has_gparm = sscanf(value, "%u/%u", &c->gparm.numerator, &c->gparm.denominator);
    else if (!strcmp(key, "buffers")) c->most_buffers = atoi(value);
    else if (!strcmp(key, "reqbufs")) c->reqbufs = atoi(value);
    else if (!strcmp(key, "dqbuf")) sscanf(value, "%d %d %d", &c->dqbuf_from, &c->dqbuf, &c->dqbuf_times);
    else if (!strcmp(key, "flagged")) c->flagged = atoi(value);
    else if (!strcmp(key, "skips")) c->skips = atoi(value);
    else if (!strcmp(key, "stamps")) strncpy(c->stamps, value, sizeof c->stamps - 1);
    else if (!strcmp(key, "input")) c->input = strtoul(value, NULL, 0);
    else if (!strcmp(key, "timings")) c->timings = atoi(value), c->has_timings = 1;
    else if (!strcmp(key, "format") && c->n_formats < LINES) c->formats[c->n_formats++] = code(value);
    else if (!strcmp(key, "size") && sscanf(value, "%ux%u", &s->least_w, &s->least_h) == 2) {
        s->most_w = s->least_w, s->most_h = s->least_h, s->type = V4L2_FRMSIZE_TYPE_DISCRETE, s->format = format, c->n_sizes++;
    } else if (!strcmp(key, "range")) {
        sscanf(value, "%u %u %u %u %u %u", &s->least_w, &s->most_w, &s->step_w, &s->least_h, &s->most_h, &s->step_h);
        s->type = V4L2_FRMSIZE_TYPE_STEPWISE, s->format = format, c->n_sizes++;
    } else if (!strcmp(key, "continuous")) {
        sscanf(value, "%u %u %u %u", &s->least_w, &s->most_w, &s->least_h, &s->most_h);
        s->step_w = s->step_h = 1, s->type = V4L2_FRMSIZE_TYPE_CONTINUOUS, s->format = format, c->n_sizes++;
    } else if (!strcmp(key, "rate") && c->n_rates < LINES) {
        struct v4l2_fract *r = &c->rates[c->n_rates++];
        sscanf(value, "%u/%u", &r->denominator, &r->numerator);
    } else if (!strcmp(key, "rates")) {
        struct v4l2_fract *r = c->rates;
        sscanf(value, "%u/%u %u/%u %u/%u", &r[0].numerator, &r[0].denominator, &r[1].numerator, &r[1].denominator,
               &r[2].numerator, &r[2].denominator);
        c->rates_are_steps = c->n_rates = 1;
    } else if (!strcmp(key, "control") && c->n_controls < LINES) {
        long long least, most, normal;
        unsigned long long step;
        sscanf(value, "%i %i %lli %lli %llu %lli %i %n", (int *)&k->is.id, (int *)&k->is.type, &least, &most, &step, &normal,
               (int *)&k->is.flags, &at);
        k->is.minimum = least, k->is.maximum = most, k->is.step = step, k->is.default_value = k->value = normal;
        strncpy(k->is.name, value + at, sizeof k->is.name), c->n_controls++;
    } else if (!strcmp(key, "menu") && c->n_items < LINES) {
        struct item *m = &c->items[c->n_items++];
        sscanf(value, "%i %u %n", (int *)&m->id, &m->index, &at);
        strncpy(m->name, value + at, sizeof m->name);
    }
}

/* A good camera, changed by what the file says. */
static struct camera *read_camera(const char *place) {
    FILE *file = REAL(fopen)(place, "r");
    char line[1024];
    if (!file) return NULL;
    struct camera *c = calloc(1, sizeof *c);
    snprintf(c->place, sizeof c->place, "%s", place);
    strcpy(c->driver, "uvcvideo"), strcpy(c->card, "A good camera");
    snprintf(c->bus, sizeof c->bus, "usb-%s", strrchr(place, '/') + 1);
    c->caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_EXT_PIX_FORMAT;
    c->fps = 30, c->memory = -1, c->gone = -1, c->most_buffers = BUFFERS, c->field = V4L2_FIELD_NONE, c->space = V4L2_COLORSPACE_SRGB;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, ' ');
        if (value) *value++ = 0;
        if (line[0] && line[0] != '#') say(c, line, value ? value : "");
    }
    fclose(file);
    if (!c->n_formats) c->formats[c->n_formats++] = code("YUYV");
    c->format = c->formats[0], c->width = 640, c->height = 480;
    if (c->n_sizes) c->width = c->sizes[0].most_w, c->height = c->sizes[0].most_h;
    c->number = atoi(strrchr(place, '/') + 6) % 256;
    return c;
}

static int open_node(const char *place) {
    struct camera *c = read_camera(place);
    if (!c) FAIL(ENOENT);
    if (c->open) { int code = c->open; free(c); FAIL(code); }
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0 || fd >= MOST_FDS) { free(c); FAIL(EMFILE); }
    of[fd] = c;
    return fd;
}

#define MODE(last) mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, last); mode = va_arg(a, int); va_end(a); }
int open(const char *path, int flags, ...) {
    const char *place = described(path);
    MODE(flags)
    return place ? open_node(place) : REAL(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    const char *place = described(path);
    MODE(flags)
    return place ? open_node(place) : REAL(open64)(path, flags, mode);
}
int openat(int folder, const char *path, int flags, ...) {
    const char *place = described(path);
    MODE(flags)
    return place ? open_node(place) : REAL(openat)(folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    const char *place = described(path);
    MODE(flags)
    return place ? open_node(place) : REAL(openat64)(folder, path, flags, mode);
}
int close(int fd) {
    if (fd >= 0 && fd < MOST_FDS) of[fd] = NULL; /* The little that a camera takes lives on: threads may still look at it. */
    return REAL(close)(fd);
}
int dup(int fd) {
    int copy = REAL(dup)(fd);
    if (fd >= 0 && fd < MOST_FDS && copy >= 0 && copy < MOST_FDS) of[copy] = of[fd];
    return copy;
}
DIR *opendir(const char *path) {
    const char *folder = getenv("PEERCAM_CAMERAS");
    return REAL(opendir)(folder && !strcmp(path, "/dev") ? folder : path);
}
char *realpath(const char *path, char *into) {
    const char *place = described(path);
    if (!place) return REAL(realpath)(path, into);
    if (REAL(access)(place, F_OK)) return NULL;
    return into ? strcpy(into, path) : strdup(path);
}
static int as_device(struct stat *found) {
    memset(found, 0, sizeof *found);
    found->st_mode = S_IFCHR | 0660, found->st_rdev = makedev(81, 0);
    return 0;
}
#define OURS(fd) ((fd) >= 0 && (fd) < MOST_FDS && of[fd])
int access(const char *path, int mode) { const char *place = described(path); return REAL(access)(place ? place : path, mode); }
int stat(const char *path, struct stat *found) {
    const char *place = described(path);
    return !place ? REAL(stat)(path, found) : REAL(access)(place, F_OK) ? -1 : as_device(found);
}
int stat64(const char *path, struct stat64 *found) {
    const char *place = described(path);
    return !place ? REAL(stat64)(path, found) : REAL(access)(place, F_OK) ? -1 : as_device((struct stat *)found);
}
int fstat(int fd, struct stat *found) { return OURS(fd) ? as_device(found) : REAL(fstat)(fd, found); }
int fstat64(int fd, struct stat64 *found) { return OURS(fd) ? as_device((struct stat *)found) : REAL(fstat64)(fd, found); }
int statx(int folder, const char *restrict path, int flags, unsigned mask, struct statx *restrict found) {
    const char *place = described(path);
    return REAL(statx)(folder, place ? place : path, flags, mask, found);
}
static void *map(struct camera *c, void *at, size_t length, int access, int flags, off64_t offset) {
    return REAL(mmap64)(at, length, access, flags, c->memory, offset);
}
void *mmap(void *at, size_t length, int access, int flags, int fd, off_t offset) {
    return OURS(fd) ? map(of[fd], at, length, access, flags, offset) : REAL(mmap)(at, length, access, flags, fd, offset);
}
void *mmap64(void *at, size_t length, int access, int flags, int fd, off64_t offset) {
    return OURS(fd) ? map(of[fd], at, length, access, flags, offset) : REAL(mmap64)(at, length, access, flags, fd, offset);
}

/* How a format lies in memory: bytes of a line, and all. */
static uint32_t tight(const struct camera *c, uint32_t *line) {
    uint32_t even = (c->width + 1) & ~1u, f = c->format, twice = 2;
    if (f == code("MJPG") || f == code("JPEG") || f == code("H264")) return *line = 0, c->width * c->height * 2 + 65536;
    if (f == code("GREY")) twice = 2;
    else if (f == code("RGB3") || f == code("BGR3")) twice = 6;
    else if (strchr("4", (char)(f >> 24)) && f != code("NV24") && (f & 0xff) != 'N') twice = 8;
    else if (f == code("NV12") || f == code("NV21") || f == code("YU12") || f == code("YV12") || f == code("NM12"))
        return *line = even, even * c->height + even * ((c->height + 1) / 2);
    else if (f == code("NV16") || f == code("NV61") || f == code("422P")) return *line = even, even * c->height * 2;
    else if (f == code("NV24")) return *line = c->width, c->width * c->height * 3;
    else twice = 4;
    *line = (twice == 4 ? even : c->width) * twice / 2;
    return *line * c->height;
}

/* The same with the driver's own stride. */
static uint32_t laid_out(const struct camera *c, uint32_t *line) {
    uint32_t bytes = tight(c, line), own = *line;
    if (!c->stride || !own || c->stride < own) return bytes;
    *line = c->stride;
    return bytes / own * c->stride;
}

static void keep_format(const struct camera *c) {
    set_at[c->number].width = c->width, set_at[c->number].height = c->height, set_at[c->number].format = c->format;
}

static void set_format(struct camera *c, struct v4l2_format *f, enum how how) {
    struct camera try = *c;
    uint32_t line, planes = f->type == V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE, best = ~0u;
    uint32_t w = planes ? f->fmt.pix_mp.width : f->fmt.pix.width, h = planes ? f->fmt.pix_mp.height : f->fmt.pix.height;
    uint32_t wanted = planes ? f->fmt.pix_mp.pixelformat : f->fmt.pix.pixelformat;
    for (int i = 0; i < c->n_formats; i++) if (c->formats[i] == wanted) try.format = wanted;
    if (how == GET && set_at[c->number].width) {
        try.width = set_at[c->number].width, try.height = set_at[c->number].height, try.format = set_at[c->number].format;
    }
    for (int i = 0; i < c->n_sizes && how != GET; i++) {
        const struct size *s = &c->sizes[i];
        if (s->format != try.format) continue;
        uint32_t nw = w < s->least_w ? s->least_w : w > s->most_w ? s->most_w : w;
        uint32_t nh = h < s->least_h ? s->least_h : h > s->most_h ? s->most_h : h;
        uint32_t off = (nw > w ? nw - w : w - nw) / 2 + (nh > h ? nh - h : h - nh) / 2;
        if (off <= best) best = off, try.width = nw, try.height = nh;
    }
    if (how == SET && c->moves_w) try.width = c->moves_w, try.height = c->moves_h;
    uint32_t bytes = laid_out(&try, &line);
    if (c->image) bytes = c->image - 1;
    if (planes) {
        struct v4l2_pix_format_mplane *p = &f->fmt.pix_mp;
        memset(p, 0, sizeof *p);
        p->width = try.width, p->height = try.height, p->pixelformat = try.format, p->field = c->field;
        p->colorspace = c->space, p->quantization = c->range, p->num_planes = 1;
        p->plane_fmt[0].sizeimage = bytes, p->plane_fmt[0].bytesperline = line;
    } else {
        struct v4l2_pix_format *p = &f->fmt.pix;
        memset(p, 0, sizeof *p);
        p->width = try.width, p->height = try.height, p->pixelformat = try.format, p->field = c->field;
        p->colorspace = c->space, p->quantization = c->range, p->sizeimage = bytes, p->bytesperline = line;
    }
    if (how != SET) return;
    *c = try;
    keep_format(c);
}

static void tell(struct camera *c, struct v4l2_buffer *b, uint32_t index, uint32_t flags, uint32_t used) {
    uint32_t type = b->type, line, bytes = laid_out(c, &line);
    if (c->image > bytes) bytes = c->image - 1;
    struct v4l2_plane *planes = b->m.planes;
    memset(b, 0, sizeof *b);
    b->type = type, b->index = index, b->memory = V4L2_MEMORY_MMAP, b->field = c->field;
    b->flags = flags | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    if (type == V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE) {
        b->m.planes = planes, b->length = 1;
        memset(planes, 0, sizeof *planes);
        planes->length = bytes, planes->bytesused = used, planes->m.mem_offset = index * ROOM;
    } else b->length = bytes, b->bytesused = used, b->m.offset = index * ROOM;
}

/* White on the left, black on the right, of 4:2:0 in planes, YUYV and grey; what lies behind a line stays as it was. */
static void draw_halves(const struct camera *c, uint8_t *into, uint32_t line) {
    uint32_t each = c->format == code("YUYV") ? 2 : 1;
    for (uint32_t y = 0; y < c->height; y++)
        for (uint32_t x = 0; x < c->width; x++) {
            into[y * line + x * each] = x < c->width / 2 ? 235 : 16;
            if (each == 2) into[y * line + x * 2 + 1] = 128;
        }
    if (c->format == code("NV12") || c->format == code("YU12")) memset(into + line * c->height, 128, line * (c->height + 1) / 2);
}

/* The next frame: where it is compressed one of the film, else grey that changes. */
static uint32_t shoot(struct camera *c, uint8_t *into) {
    uint32_t line, bytes = laid_out(c, &line);
    if (c->frames[0] && !line && !c->film) {
        int fd = REAL(open)(c->frames, O_RDONLY | O_CLOEXEC);
        struct stat found;
        if (fd < 0 || REAL(fstat)(fd, &found) || !(c->film = malloc(found.st_size + 1))) return 0;
        c->scene = c->film, c->end = c->film + (read(fd, c->film, found.st_size) == found.st_size ? found.st_size : 0);
        *c->end = 0;
        REAL(close)(fd);
    }
    if (c->film && !line) {
        if (c->scene >= c->end) c->scene = c->film;
        uint32_t length = strtoul(c->scene, &c->scene, 10);
        memcpy(into, ++c->scene, length < ROOM ? length : ROOM);
        c->scene += length;
        return length;
    }
    memset(into, 64 + c->sequence * 4 % 128, bytes);
    if (c->halves) draw_halves(c, into, line);
    return c->bytes ? c->bytes : bytes;
}

static int frame_interval(struct camera *c, struct v4l2_frmivalenum *f) {
    if (!strcmp(c->endless, "rates")) f->type = V4L2_FRMIVAL_TYPE_DISCRETE, f->discrete = (struct v4l2_fract){1, 1 + f->index % 60};
    else if (f->index >= (uint32_t)c->n_rates) FAIL(EINVAL);
    else if (c->rates_are_steps) {
        f->type = V4L2_FRMIVAL_TYPE_STEPWISE;
        f->stepwise = (struct v4l2_frmival_stepwise){c->rates[0], c->rates[1], c->rates[2]};
    } else f->type = V4L2_FRMIVAL_TYPE_DISCRETE, f->discrete = c->rates[f->index];
    return 0;
}

static int frame_size(struct camera *c, struct v4l2_frmsizeenum *f) {
    uint32_t place = f->index;
    if (!strcmp(c->endless, "sizes")) {
        f->type = V4L2_FRMSIZE_TYPE_DISCRETE, f->discrete.width = 640, f->discrete.height = 480;
        return 0;
    }
    for (int i = 0; i < c->n_sizes; i++) {
        const struct size *s = &c->sizes[i];
        if (s->format != f->pixel_format || place--) continue;
        f->type = s->type;
        if (s->type == V4L2_FRMSIZE_TYPE_DISCRETE) f->discrete.width = s->most_w, f->discrete.height = s->most_h;
        else f->stepwise = (struct v4l2_frmsize_stepwise){s->least_w, s->most_w, s->step_w, s->least_h, s->most_h, s->step_h};
        return 0;
    }
    FAIL(EINVAL);
}

static struct control *find(struct camera *c, uint32_t id) {
    for (int i = 0; i < c->n_controls; i++) {
        uint32_t is = c->controls[i].is.id;
        if (id & V4L2_CTRL_FLAG_NEXT_CTRL ? is > (id & V4L2_CTRL_ID_MASK) : is == id) return &c->controls[i];
    }
    return NULL;
}

/* The value of a control; where `to` is given, it is set before. */
static int64_t value_of(struct camera *c, const struct control *k, const int64_t *to) {
    __typeof__(set_at[0].values[0]) *value = &set_at[c->number].values[k - c->controls];
    if (to) value->is_set = 1, value->is = *to;
    return value->is_set ? value->is : k->value;
}

static int answer(struct camera *c, int fd, uint32_t request, void *p) {
    struct control *k;
    uint32_t type = c->caps & V4L2_CAP_VIDEO_CAPTURE_MPLANE ? V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE : V4L2_BUF_TYPE_VIDEO_CAPTURE;
    if (c->gone >= 0 && c->sequence >= c->gone && c->streams) FAIL(ENODEV);
    if (REAL(access)(c->place, F_OK)) FAIL(ENODEV);
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *q = p;
        if (c->querycap) FAIL(c->querycap);
        memset(q, 0, sizeof *q);
        memcpy(q->driver, c->driver, sizeof q->driver), memcpy(q->card, c->card, sizeof q->card);
        memcpy(q->bus_info, c->bus, sizeof q->bus_info);
        q->version = 0x60100, q->device_caps = c->caps, q->capabilities = c->caps | V4L2_CAP_DEVICE_CAPS;
        return 0;
    }
    case VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *f = p;
        if (f->type != type) FAIL(EINVAL);
        if (f->index >= (uint32_t)c->n_formats && strcmp(c->endless, "formats")) FAIL(EINVAL);
        f->flags = 0, f->pixelformat = c->formats[f->index % c->n_formats];
        strcpy((char *)f->description, "a format");
        return 0;
    }
    case VIDIOC_ENUM_FRAMESIZES: return frame_size(c, p);
    case VIDIOC_ENUM_FRAMEINTERVALS: return frame_interval(c, p);
    case VIDIOC_G_FMT: {
        struct v4l2_format *f = p;
        if (f->type != type) FAIL(EINVAL);
        set_format(c, f, GET);
        return 0;
    }
    case VIDIOC_TRY_FMT: case VIDIOC_S_FMT:
        if (((struct v4l2_format *)p)->type != type) FAIL(EINVAL);
        if (request == VIDIOC_S_FMT && c->sfmt) FAIL(c->sfmt);
        set_format(c, p, request == VIDIOC_S_FMT ? SET : TRY);
        return 0;
    case VIDIOC_G_PARM: case VIDIOC_S_PARM: {
        struct v4l2_streamparm *s = p;
        if (!c->n_rates && !c->has_gparm) FAIL(ENOTTY);
        if (s->type != type) FAIL(EINVAL);
        if (request == VIDIOC_S_PARM && c->sparm) FAIL(c->sparm);
        s->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
        if (request == VIDIOC_G_PARM) s->parm.capture.timeperframe = c->rates[0];
        if (c->has_gparm) s->parm.capture.timeperframe = c->gparm;
        return 0;
    }
    case VIDIOC_ENUMINPUT: {
        struct v4l2_input *i = p;
        if (i->index) FAIL(EINVAL);
        memset(i, 0, sizeof *i), strcpy((char *)i->name, "Camera"), i->type = V4L2_INPUT_TYPE_CAMERA, i->status = c->input;
        if (c->has_timings) i->capabilities = V4L2_IN_CAP_DV_TIMINGS;
        return 0;
    }
    case VIDIOC_G_INPUT: *(int *)p = 0; return 0;
    case VIDIOC_S_INPUT: return 0;
    case VIDIOC_QUERY_DV_TIMINGS: case VIDIOC_G_DV_TIMINGS: case VIDIOC_S_DV_TIMINGS: {
        struct v4l2_dv_timings *t = p;
        if (!c->has_timings) FAIL(ENOTTY);
        if (request == VIDIOC_QUERY_DV_TIMINGS && c->timings) FAIL(c->timings);
        if (request != VIDIOC_S_DV_TIMINGS) {
            memset(t, 0, sizeof *t), t->type = V4L2_DV_BT_656_1120;
            t->bt.width = 1280, t->bt.height = 720, t->bt.pixelclock = 74250000, t->bt.hfrontporch = 110, t->bt.hsync = 40;
            t->bt.hbackporch = 220, t->bt.vfrontporch = 5, t->bt.vsync = 5, t->bt.vbackporch = 20;
        }
        else c->width = c->moves_w = t->bt.width, c->height = c->moves_h = t->bt.height, keep_format(c);
        return 0;
    }
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *r = p;
        if (r->memory != V4L2_MEMORY_MMAP || r->type != type) FAIL(EINVAL);
        if (c->reqbufs) FAIL(c->reqbufs);
        if (r->count > (uint32_t)c->most_buffers) r->count = c->most_buffers;
        if (c->memory < 0) {
            c->memory = memfd_create("camera", MFD_CLOEXEC);
            if (ftruncate(c->memory, (off_t)BUFFERS * ROOM)) FAIL(ENOMEM);
            c->mapped = REAL(mmap64)(NULL, (size_t)BUFFERS * ROOM, PROT_READ | PROT_WRITE, MAP_SHARED, c->memory, 0);
        }
        c->buffers = r->count, c->head = c->tail = 0, r->capabilities = V4L2_BUF_CAP_SUPPORTS_MMAP;
        return 0;
    }
    case VIDIOC_QUERYBUF: case VIDIOC_QBUF: {
        struct v4l2_buffer *b = p;
        if ((int)b->index >= c->buffers) FAIL(EINVAL);
        if (request == VIDIOC_QUERYBUF) tell(c, b, b->index, 0, 0);
        else c->queue[c->tail++ % 64] = b->index, b->flags |= V4L2_BUF_FLAG_QUEUED;
        return 0;
    }
    case VIDIOC_DQBUF: {
        struct timespec now;
        uint64_t times;
        if (c->dqbuf && c->sequence >= c->dqbuf_from && c->dqbuf_times > 0) { c->dqbuf_times--; FAIL(c->dqbuf); }
        if (c->head == c->tail || read(fd, &times, 8) != 8) FAIL(EAGAIN);
        int index = c->queue[c->head++ % 64];
        tell(c, p, index, V4L2_BUF_FLAG_DONE, shoot(c, c->mapped + (size_t)index * ROOM));
        if (c->flagged && c->sequence % c->flagged == 0) ((struct v4l2_buffer *)p)->flags |= V4L2_BUF_FLAG_ERROR;
        clock_gettime(strcmp(c->stamps, "real") ? CLOCK_MONOTONIC : CLOCK_REALTIME, &now);
        if (!strcmp(c->stamps, "zero")) now = (struct timespec){0, 0};
        if (!strcmp(c->stamps, "same")) now = (struct timespec){1000, 0};
        if (!strcmp(c->stamps, "back")) now.tv_sec -= c->sequence * 2;
        if (!strcmp(c->stamps, "ahead")) now.tv_sec += 3600;
        if (!strcmp(c->stamps, "wrap")) {
            uint64_t micros = now.tv_sec * 1000000ull + now.tv_nsec / 1000;
            if (c->sequence == 0) c->wraps_at = micros + (uint64_t)(60e6 / c->fps);
            micros = (micros - c->wraps_at) & 0xffffffff;
            now = (struct timespec){micros / 1000000, micros % 1000000 * 1000};
        }
        ((struct v4l2_buffer *)p)->sequence = c->sequence, c->sequence += 1 + c->skips;
        ((struct v4l2_buffer *)p)->timestamp = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
        if (c->silent && c->sequence >= c->silent) timerfd_settime(fd, 0, &(struct itimerspec){0}, NULL);
        return 0;
    }
    case VIDIOC_STREAMON: {
        double first = c->first ? c->first : 1 / c->fps;
        struct itimerspec every = {{1 / c->fps, (long)(1e9 / c->fps) % 1000000000}, {first, (long)(first * 1e9) % 1000000000}};
        if (c->streamon) FAIL(c->streamon);
        for (int i = 0; i < c->n_fails; i++) {
            if (c->fails[i].format != c->format) continue;
            if (c->fails[i].error) FAIL(c->fails[i].error);
            first = -1;
        }
        c->sequence = 0, c->streams = 1;
        return first < 0 ? 0 : timerfd_settime(fd, 0, &every, NULL);
    }
    case VIDIOC_STREAMOFF: {
        struct itimerspec never = {{0, 0}, {0, 0}};
        c->head = c->tail = c->streams = 0;
        return timerfd_settime(fd, 0, &never, NULL);
    }
    case VIDIOC_QUERYCTRL: {
        struct v4l2_queryctrl *q = p;
        if (!(k = find(c, q->id))) FAIL(EINVAL);
        memset(q, 0, sizeof *q), memcpy(q->name, k->is.name, sizeof q->name);
        q->id = k->is.id, q->type = k->is.type, q->minimum = k->is.minimum, q->maximum = k->is.maximum;
        q->step = k->is.step, q->default_value = k->is.default_value, q->flags = k->is.flags;
        return 0;
    }
    case VIDIOC_QUERY_EXT_CTRL: {
        struct v4l2_query_ext_ctrl *q = p;
        if (!strcmp(c->endless, "controls") && c->n_controls) { *q = c->controls[0].is; return 0; }
        if (!(k = find(c, q->id & ~V4L2_CTRL_FLAG_NEXT_COMPOUND))) FAIL(EINVAL);
        *q = k->is;
        return 0;
    }
    case VIDIOC_QUERYMENU: {
        struct v4l2_querymenu *m = p;
        for (int i = 0; i < c->n_items; i++) {
            if (c->items[i].id == m->id && c->items[i].index == m->index) return memcpy(m->name, c->items[i].name, 32), 0;
        }
        FAIL(EINVAL);
    }
    case VIDIOC_G_CTRL: case VIDIOC_S_CTRL: {
        struct v4l2_control *one = p;
        if (!(k = find(c, one->id))) FAIL(EINVAL);
        if (request == VIDIOC_G_CTRL && k->is.flags & V4L2_CTRL_FLAG_WRITE_ONLY) FAIL(EACCES);
        int64_t to = one->value;
        one->value = value_of(c, k, request == VIDIOC_S_CTRL ? &to : NULL);
        return 0;
    }
    case VIDIOC_G_EXT_CTRLS: case VIDIOC_S_EXT_CTRLS: {
        struct v4l2_ext_control *one = ((struct v4l2_ext_controls *)p)->controls;
        if (!(k = find(c, one->id))) FAIL(EINVAL);
        int64_t to = one->value64;
        one->value64 = value_of(c, k, request == VIDIOC_S_EXT_CTRLS ? &to : NULL);
        return 0;
    }
    default: FAIL(ENOTTY);
    }
}

int ioctl(int fd, unsigned long request, ...) {
    va_list a;
    va_start(a, request);
    void *p = va_arg(a, void *);
    va_end(a);
    return OURS(fd) ? answer(of[fd], fd, request, p) : REAL(ioctl)(fd, request, p);
}

/* The crate `v4l` calls the kernel without libc's ioctl(). */
long syscall(long number, ...) {
    va_list a;
    long p[6];
    va_start(a, number);
    for (int i = 0; i < 6; i++) p[i] = va_arg(a, long);
    va_end(a);
    if (number == SYS_ioctl && OURS((int)p[0])) return answer(of[p[0]], (int)p[0], (unsigned int)p[1], (void *)p[2]);
    return REAL(syscall)(number, p[0], p[1], p[2], p[3], p[4], p[5]);
}
